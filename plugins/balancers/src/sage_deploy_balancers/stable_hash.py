"""Hashes keys to the same numbers in every process and every run. Python's own hash does not."""

from __future__ import annotations

from hashlib import blake2b
from operator import index
from struct import unpack
from typing import TYPE_CHECKING, Final
from uuid import UUID

from sage_plugins.errors import InvalidKeyError

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["hash_key", "positions"]

#: Bytes of a position. With 64 bits, two of some thousands of positions collide once in 10^12 rings.
_SIZE: Final = 8


def hash_key(key: Hashable) -> int:
    """
    Return a number below 2**64 for *key*: BLAKE2b of its canonical encoding.

    Keys that are equal in Python get the same number: `1`, `1.0` and `True`, or a string and a `StrEnum` with its
    value.

    Raises:
        InvalidKeyError: *key* is no str, bytes, number, UUID, or tuple of them (None is allowed in a tuple). Other
            types have no value that is the same in every process.
    """
    return int.from_bytes(blake2b(_encode(key), digest_size=_SIZE).digest(), "big")


def positions(name: str, count: int) -> list[int]:
    """Return *count* numbers below 2**64. They look random, and are always the same for *name*."""
    found: list[int] = []
    block = 0
    while len(found) < count:
        # The salt separates them from the hashes of keys: a key with the text of a replica's name does not collide.
        digest = blake2b(f"{block}:{name}".encode("utf-8", "surrogatepass"), salt=b"replica").digest()
        found += unpack(">8Q", digest)
        block += 1
    return found[:count]


def _encode(key: Hashable) -> bytes:
    """Encode different keys as different bytes. The first byte is the type."""
    if isinstance(key, str):
        return b"s" + key.encode("utf-8", "surrogatepass")
    if isinstance(key, bytes):
        return b"b" + key
    if isinstance(key, float):
        if not key.is_integer():
            return b"f" + key.hex().encode()
        key = int(key)
    elif isinstance(key, UUID):
        return b"u" + key.bytes
    elif isinstance(key, tuple):
        parts = [b"n" if part is None else _encode(part) for part in key]
        return b"t" + b"".join(b"%d:%b" % (len(part), part) for part in parts)
    try:
        return b"i%x" % index(key)  # type: ignore[arg-type] # asked here
    except TypeError:
        msg = (
            f"cannot be placed by a key of type {type(key).__qualname__}: it has no value that other processes would "
            "know it by. Use a str, bytes, a number, a UUID or a tuple of them"
        )
        raise InvalidKeyError(msg) from None
