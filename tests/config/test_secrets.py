"""What is a secret is told by its name."""

from __future__ import annotations

import pytest

from sage_plugins.config.secrets import is_secret


@pytest.mark.parametrize(
    "path",
    [
        "password",
        "init.kwargs.db_password",
        "user_config.API_KEY",
        "options.acme.apiKey",
        "options.acme.apikey",
        "options.auth.credentials.user",
        "accessToken",
        "SECRET",
        "private-key",
        "init.kwargs.dbPass",
        "PGPASSWORD",
        "user_config.pushtoken",
    ],
)
def test_names_of_secrets(path):
    assert is_secret(path)


@pytest.mark.parametrize(
    "path",
    [
        "timeout",
        "options.consistent_hash.key",
        "max_tokens",
        "tokenizer",
        "passenger",
        "compass",
        "keyboard",
        "monkey",
        "",
    ],
)
def test_names_of_other_things(path):
    """Words that only contain such a word are none, nor is the key by which calls are spread."""
    assert not is_secret(path)
