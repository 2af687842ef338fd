"""Work that whichever thread is there does, one thread at a time."""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DrainQueue"]


class DrainQueue:
    """Things that one thread at a time takes away, whichever is there; nobody waits for another."""

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self._busy = threading.Lock()
        # For who writes `drain` out, where a frame would cost every call.
        self.take, self.leave = partial(self._busy.acquire, blocking=False), self._busy.release

    @property
    def idle(self) -> bool:
        """Whether there is nothing to take, and nobody is at it."""
        return not (self.items or self._busy.locked())

    def drain(self, take: Callable[[], None], over: Callable[[], bool] = lambda: False) -> None:
        """Have *take* empty `items`, unless *over*; if another thread is at it, that one looks again before it goes."""
        while self.items and not over() and self.take():
            try:
                take()
            finally:
                self.leave()
