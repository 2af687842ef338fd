"""A queue that one of its users' threads empties at a time."""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DrainQueue"]


class DrainQueue:
    """A queue that one thread at a time empties: whichever thread comes first. No thread waits for another."""

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self._busy = threading.Lock()
        # For code that inlines `drain` where an extra Python frame would slow each call.
        self.take, self.leave = partial(self._busy.acquire, blocking=False), self._busy.release

    @property
    def idle(self) -> bool:
        """Whether the queue is empty and no thread is emptying it."""
        return not (self.items or self._busy.locked())

    def drain(self, take: Callable[[], None], over: Callable[[], bool] = lambda: False) -> None:
        """
        Call *take* to empty `items`, unless *over* returns True. They may be empty by then: *take* must look.

        If another thread is doing it, return at once: that thread checks `items` again before it stops.
        """
        while self.items and not over() and self.take():
            try:
                take()
            finally:
                self.leave()
