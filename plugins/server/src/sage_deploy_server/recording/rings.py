"""Ring buffers of past values, in a fixed amount of memory."""

from __future__ import annotations

from array import array
from math import nan
from typing import Final

__all__ = ["FIELDS", "Ring"]

#: Values recorded for a service at one time.
FIELDS: Final = ("rate", "error_rate", "p50", "p95", "p99", "queue", "inflight", "slots")

_WIDTH: Final = len(FIELDS)

#: Marks a row that was never written.
_NEVER: Final = 2**32 - 1


class Ring:
    """The latest rows of `FIELDS`. Each has an increasing number, such as that of its second. Not thread-safe."""

    __slots__ = ("_length", "_numbers", "_values")

    def __init__(self, length: int) -> None:
        """
        Start empty.

        Args:
            length: Number of rows to keep.
        """
        self._length = length
        self._numbers = array("I", [_NEVER]) * length
        self._values = array("f", [nan]) * (length * _WIDTH)

    def write(self, number: int, row: array[float]) -> None:
        """Write *row* under *number*. It replaces the row that is *length* numbers older."""
        at = number % self._length
        self._numbers[at] = number
        self._values[at * _WIDTH : (at + 1) * _WIDTH] = row

    def read(self, first: int, last: int) -> dict[str, list[float | None]]:
        """Return the values by field for the numbers from *first* to *last*. None where a value is missing."""
        positions = [
            number % self._length if number >= 0 and self._numbers[number % self._length] == number else None
            for number in range(first, last + 1)
        ]
        found: dict[str, list[float | None]] = {}
        for offset, field in enumerate(FIELDS):
            column = self._values[offset::_WIDTH]
            found[field] = [None if at is None else _known(column[at]) for at in positions]
        return found


def _known(value: float) -> float | None:
    # Rounded, because a float of 32 bits shows digits that were not measured.
    return None if value != value else round(value, 6)  # noqa: PLR0124 - true only for NaN
