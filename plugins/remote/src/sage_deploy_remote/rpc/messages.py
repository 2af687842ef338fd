"""Requests and replies as bytes: a number that a request and its reply have both, and a pickle."""

from __future__ import annotations

import pickle
from typing import Any, Final

__all__ = ["HAND_OVER", "join", "split"]

#: Instead of the first request: the connection is for something else than requests.
HAND_OVER: Final = b"hand over"

_NUMBER: Final = 8


def join(number: int, value: Any) -> bytes:
    """
    A message.

    Raises:
        Exception: Whatever pickling the value raises.
    """
    return number.to_bytes(_NUMBER, "big") + pickle.dumps(value, 5)


def split(message: bytes) -> tuple[int, memoryview]:
    """The number of a message, and the pickle: whoever reads that knows whom to tell if it cannot be read."""
    return int.from_bytes(message[:_NUMBER], "big"), memoryview(message)[_NUMBER:]
