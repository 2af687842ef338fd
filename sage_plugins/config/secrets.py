"""Which values are secrets, going by the name under which they stand; these are never shown."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["HIDDEN", "is_secret"]

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
#: Ends of words that are written as one, such as `PGPASSWORD`; `compass` must not be among them.
_ENDINGS: Final = ("credential", "credentials", "passphrase", "passwd", "password", "secret", "token")
#: A key is a secret if the name says what it opens: `api_key`, but not the `key` by which calls are spread.
_KEYS: Final = frozenset({"access", "api", "auth", "encryption", "private", "secret", "signing", "ssh"})


def is_secret(path: str) -> bool:
    """Whether a part of the dotted *path*, such as `init.kwargs.db_password`, is the name of a secret."""
    return any(_names_secret(part) for part in path.split("."))


def _names_secret(name: str) -> bool:
    words = [word.lower() for word in _WORDS.findall(name)]
    if not _SECRET.isdisjoint(words) or any(word.endswith(_ENDINGS) for word in words):
        return True
    joined = "".join(words)
    return joined.endswith("key") and (not _KEYS.isdisjoint(words) or joined.removesuffix("key") in _KEYS)
