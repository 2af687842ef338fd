"""Packs requests and replies: a number, which a reply takes from its request, and a pickle."""

from __future__ import annotations

import pickle
from typing import Any, Final

__all__ = ["HAND_OVER", "join", "split"]

#: Sent instead of the first request: this connection is not for requests.
HAND_OVER: Final = b"hand over"

_NUMBER: Final = 8


def join(number: int, value: Any) -> bytes:
    """
    Return a message as bytes.

    Raises:
        Exception: The error that pickling the value raises.
    """
    return number.to_bytes(_NUMBER, "big") + pickle.dumps(value, 5)


def split(message: bytes) -> tuple[int, memoryview]:
    """Return a message's number and its pickle, so that the reader can report an unreadable pickle by its number."""
    return int.from_bytes(message[:_NUMBER], "big"), memoryview(message)[_NUMBER:]
