"""
In which order waiting calls start under `overload: priority`, and which of them makes room when the queue is full.

A state machine without a clock: each call brings its priority and the time at which it was made.

* Of two calls the one with the higher priority comes first; of two with the same, the one that was made first.
* A waiting call gains one level in each `LEVEL_S` seconds, so nothing starves: a call that was made `LEVEL_S` seconds
  later needs one level more to come first.

Since all calls that wait gain at the same rate, two of them never change places. So each has one fixed *rank*, the time
at which it was made less `LEVEL_S` for each level, and the lowest rank comes first. The row needs no sorting again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["HIGHEST", "LEVEL_S", "Row", "rank"]

#: Seconds in which a waiting call gains one level.
LEVEL_S: Final = 30.0

#: The highest priority; the lowest is its negative. A rank is then exact to some nanoseconds.
HIGHEST: Final = 1_000_000

_Item = TypeVar("_Item")


def rank(priority: int, since: float) -> float:
    """Where a call with this *priority* stands that was made at *since*, in seconds: the lowest comes first."""
    return since - LEVEL_S * priority


class Row(deque[_Item]):
    """
    What waits, in the order of its ranks; among equal ranks in the order in which it came.

    It stands where a `deque` would: whoever adds something at either end has it put into its place. Safe from any
    thread, as a deque is.
    """

    def __init__(self, rank_of: Callable[[_Item], float]) -> None:
        """
        Make an empty row.

        Args:
            rank_of: The rank of an item, which never changes.
        """
        super().__init__()
        self._rank_of = rank_of
        # Between looking for a place and taking it nothing may move. Re-entrant: a signal handler may make a call.
        self._lock = RLock()

    def append(self, item: _Item) -> None:
        """Put *item* behind those of its rank."""
        with self._lock:
            self._insert(item, bisect_right)

    def appendleft(self, item: _Item) -> None:
        """Put *item*, which was here before, ahead of those of its rank."""
        with self._lock:
            self._insert(item, bisect_left)

    def popleft(self) -> _Item:
        """Take the first; raises IndexError if there is none."""
        with self._lock:
            return super().popleft()

    def remove(self, item: _Item) -> None:
        """Take *item*; raises ValueError if it is not here."""
        with self._lock:
            super().remove(item)

    def copy(self) -> deque[_Item]:  # type: ignore[override] # nothing is added to a copy
        """All items, in order."""
        return deque(self)

    def before(self, item: _Item) -> int:
        """How many would start before *item* if it was added now."""
        with self._lock:
            return bisect_right(self, self._rank_of(item), key=self._rank_of)

    def _insert(self, item: _Item, place: Callable[..., int]) -> None:
        row: Sequence[Any] = self
        self.insert(place(row, self._rank_of(item), key=self._rank_of), item)
