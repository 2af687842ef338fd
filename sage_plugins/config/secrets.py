"""Finds secrets by the names of their keys, and masks them. Secrets are never shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

__all__ = ["HIDDEN", "is_secret", "masked"]

#: What is shown instead of a secret.
HIDDEN: Final = "(hidden)"

_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET: Final = frozenset(
    {
        "credential",
        "credentials",
        "pass",
        "passphrase",
        "passwd",
        "password",
        "passwords",
        "pwd",
        "secret",
        "secrets",
        "token",
    }
)
#: Endings of compound words such as `PGPASSWORD`. `pass` is not among them, because of `compass`.
_ENDINGS: Final = ("credential", "credentials", "passphrase", "passwd", "password", "secret", "token")
#: `..._key` is a secret only with one of these words, as in `api_key`. The `key` of a call is not a secret.
_KEYS: Final = frozenset({"access", "api", "auth", "encryption", "private", "secret", "signing", "ssh"})
#: The names directly below these keys belong to methods and plugins: a method `get_token`, a plugin `token_bucket`.
_NAMED_BELOW: Final = frozenset({"environment", "methods", "options"})


def is_secret(path: str) -> bool:
    """
    Whether a part of the dotted *path*, such as `init.kwargs.db_password`, names a secret.

    The names of methods and plugins are ignored.
    """
    first, *rest = path.split(".")
    return _names_secret(first) or any(map(_names_secret, rest[1:] if first in _NAMED_BELOW else rest))


def masked(value: Any, path: str = "") -> Any:
    """
    Return *value* with `HIDDEN` in place of each secret. Mappings become dictionaries.

    Args:
        value: A mapping, or the value at *path*.
        path: Path of the value, such as `"user_config"`; "" if its keys are names of fields.
    """
    if isinstance(value, Mapping):
        return {name: masked(child, f"{path}.{name}" if path else str(name)) for name, child in value.items()}
    if value is not None and not isinstance(value, bool) and is_secret(path):
        return HIDDEN
    if isinstance(value, tuple):
        return tuple([masked(child, path) for child in value])
    return [masked(child, path) for child in value] if isinstance(value, list) else value


@lru_cache(maxsize=4096)  # a status of 200 services makes 37,000 calls, for a few hundred names
def _names_secret(name: str) -> bool:
    words = [word.lower() for word in _WORDS.findall(name)]
    if not _SECRET.isdisjoint(words) or any(word.endswith(_ENDINGS) for word in words):
        return True
    joined = "".join(words)
    return joined.endswith("key") and (not _KEYS.isdisjoint(words) or joined.removesuffix("key") in _KEYS)
