"""Numbers of the past in a fixed amount of memory."""

from __future__ import annotations

from array import array
from math import nan
from typing import Final

__all__ = ["FIELDS", "Ring"]

#: What is kept of a service at one time.
FIELDS: Final = ("rate", "error_rate", "p50", "p95", "p99", "queue", "inflight", "slots")

_WIDTH: Final = len(FIELDS)

#: Stands where nothing was written yet.
_NEVER: Final = 2**32 - 1


class Ring:
    """The latest rows of `FIELDS`, each under a number that counts up, such as that of a second. For one thread."""

    __slots__ = ("_length", "_numbers", "_values")

    def __init__(self, length: int) -> None:
        """
        Keep nothing yet.

        Args:
            length: Rows that are kept.
        """
        self._length = length
        self._numbers = array("I", [_NEVER]) * length
        self._values = array("f", [nan]) * (length * _WIDTH)

    def write(self, number: int, row: array[float]) -> None:
        """Keep *row* under *number*; the row that is *length* numbers older makes room."""
        at = number % self._length
        self._numbers[at] = number
        self._values[at * _WIDTH : (at + 1) * _WIDTH] = row

    def read(self, first: int, last: int) -> dict[str, list[float | None]]:
        """The values by field under the numbers from *first* to *last*; None where nothing was written or is known."""
        places = [
            number % self._length if number >= 0 and self._numbers[number % self._length] == number else None
            for number in range(first, last + 1)
        ]
        found: dict[str, list[float | None]] = {}
        for offset, field in enumerate(FIELDS):
            column = self._values[offset::_WIDTH]
            found[field] = [None if at is None else _known(column[at]) for at in places]
        return found


def _known(value: float) -> float | None:
    # Rounded, because a number of 32 bits has digits that nobody measured.
    return None if value != value else round(value, 6)  # noqa: PLR0124 - not a number
