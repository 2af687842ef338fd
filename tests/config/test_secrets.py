"""A secret is recognised by its name."""

from __future__ import annotations

import pytest

from sage_plugins.config.secrets import HIDDEN, is_secret, masked


@pytest.mark.parametrize(
    "path",
    [
        "password",
        "init.kwargs.db_password",
        "user_config.API_KEY",
        "options.acme.apiKey",
        "options.acme.apikey",
        "options.acme.credentials.user",
        "options.token_bucket.api_key",
        "accessToken",
        "SECRET",
        "private-key",
        "init.kwargs.dbPass",
        "PGPASSWORD",
        "user_config.pushtoken",
    ],
)
def test_names_of_secrets(path):
    """A name with a word such as password, token or key is a secret."""
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
        "methods.get_token.timeout",
        "options.token_bucket.rate",
        "environment.token_bucket.rate",
    ],
)
def test_names_of_other_things(path):
    """Names that only contain such a word, methods' names and the balancer's `key` are no secrets."""
    assert not is_secret(path)


def test_masked_copy():
    """`masked` hides every secret at any depth and leaves the rest."""
    value = {
        "user_config": {
            "password": "p",
            "tokens_per_s": 3,
            "credentials": {"user": "u", "all": ["a", 1], "on": True, "none": None},
            "peers": [{"host": "h", "secret": 7}, ("x", {"api_key": 1.5})],
        },
        "methods": {"get_token": {"timeout": 1.0}},
    }
    assert masked(value) == {
        "user_config": {
            "password": HIDDEN,
            "tokens_per_s": 3,
            "credentials": {"user": HIDDEN, "all": HIDDEN, "on": True, "none": None},
            "peers": [{"host": "h", "secret": HIDDEN}, ("x", {"api_key": HIDDEN})],
        },
        "methods": {"get_token": {"timeout": 1.0}},
    }
