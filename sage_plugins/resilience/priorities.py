"""
The order in which waiting calls start under `overload: priority`, and in which they make room in a full queue.

Needs no clock: each call has its priority and the time at which it was made.

* The call with the higher priority comes first. Of two calls with the same priority, the older one comes first.
* A waiting call gains one level every `LEVEL_S` seconds, so no call starves. A call made `LEVEL_S` seconds later needs
  one level more to come first.

All waiting calls gain at the same rate, so two of them never change places. So each call has one fixed *rank*: the time
at which it was made, minus `LEVEL_S` for each level. The lowest rank comes first, and the queue is never sorted again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["HIGHEST", "LEVEL_S", "RankedQueue", "rank"]

#: A waiting call gains one level in this many seconds.
LEVEL_S: Final = 30.0

#: The highest priority; the lowest is its negative. Within these limits, a rank is exact to some nanoseconds.
HIGHEST: Final = 1_000_000

_Item = TypeVar("_Item")


def rank(priority: int, since: float) -> float:
    """Return the rank of a call with *priority* that was made at *since*, in seconds; the lowest rank comes first."""
    return since - LEVEL_S * priority


class RankedQueue(deque[_Item]):
    """
    A queue in the order of ranks; items with equal ranks are in the order in which they came.

    It replaces a `deque`: `append` and `appendleft` put an item where its rank belongs. Safe from any thread, as a
    deque is.
    """

    def __init__(self, rank_of: Callable[[_Item], float]) -> None:
        """
        Make an empty row.

        Args:
            rank_of: Returns the rank of an item, which never changes.
        """
        super().__init__()
        self._rank_of = rank_of
        # Makes search and insertion one step. Re-entrant, because a signal handler may make a call.
        self._lock = RLock()

    def append(self, item: _Item) -> None:
        """Insert *item* behind items of the same rank."""
        with self._lock:
            self._insert(item, bisect_right)

    def appendleft(self, item: _Item) -> None:
        """Insert *item*, which was here before, ahead of items of the same rank."""
        with self._lock:
            self._insert(item, bisect_left)

    def popleft(self) -> _Item:
        """Remove and return the first item; raises IndexError if there is none."""
        with self._lock:
            return super().popleft()

    def remove(self, item: _Item) -> None:
        """Remove *item*; raises ValueError if it is not here."""
        with self._lock:
            super().remove(item)

    def copy(self) -> deque[_Item]:  # type: ignore[override] # nothing is added to a copy
        """Return all items in order."""
        return deque(self)

    def before(self, item: _Item) -> int:
        """Return how many items would come before *item* if it was added now."""
        with self._lock:
            return bisect_right(self, self._rank_of(item), key=self._rank_of)

    def _insert(self, item: _Item, place: Callable[..., int]) -> None:
        row: Sequence[Any] = self
        self.insert(place(row, self._rank_of(item), key=self._rank_of), item)
