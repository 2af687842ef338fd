"""Threads that fetch work: a fixed number of them, or as many as the load needs."""

from __future__ import annotations

import os
import threading
from functools import partial
from itertools import count
from queue import Empty
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sage_plugins.interfaces import Seat, Work

__all__ = ["DEFAULT_MOST", "Workers", "join_all"]

#: The rule of ThreadPoolExecutor for threads that mostly wait.
DEFAULT_MOST: Final = min(32, (os.cpu_count() or 1) + 4)


class Workers:
    """
    Threads that run what *get* gives; all methods are safe from any thread.

    Not `concurrent.futures.ThreadPoolExecutor`: its exit hook joins its threads, so one stuck method would keep the
    interpreter from exiting, and its `submit` takes several locks where a seat's inbox takes none.
    """

    def __init__(  # noqa: PLR0913 - what to run, and how many
        self,
        seat: Seat,
        *,
        kept: int,
        most: int,
        idle_timeout: float,
        name: str = "worker",
        get: Callable[[], Work | None] | None = None,
        get_within: Callable[[float], Work | None] | None = None,
    ) -> None:
        """
        Start the threads that are kept.

        Args:
            seat: Whose work they run.
            kept: Threads that never leave.
            most: Threads under load.
            idle_timeout: Seconds without work after which a thread beyond *kept* leaves.
            name: For the threads' names.
            get: Where they fetch work; the seat's inbox by default.
            get_within: `get` with a time limit.
        """
        self._seat = seat
        self._kept = kept
        self._most = most
        self._idle_timeout = idle_timeout
        self._name = name
        self._get = get or seat.get
        self._get_within = get_within or seat.get_within
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()  # guarded by _lock
        self._ended = False  # guarded by _lock
        self._number = count()
        # One token for each thread that waits for work; see _work_elastic.
        self._idle: list[None] = []
        for _ in range(kept):
            self.grow()

    def grow(self) -> None:
        """Start one more thread, unless there are enough."""
        with self._lock:
            if self._ended or len(self._threads) >= self._most:
                return
            self._idle.append(None)
            work = self._work_fixed if self._kept >= self._most else self._work_elastic
            self._threads.add(self._seat.spawn(work, f"{self._name}-{next(self._number)}"))

    @property
    def idle(self) -> bool:
        """Whether a thread waits for work; may lag."""
        return bool(self._idle)

    def _work_fixed(self) -> None:
        get, execute = self._get, self._seat.worker()
        for work in iter(get, None):
            execute(work)
            del work  # until the next comes, nothing of it may be kept alive
        execute(None)

    def _work_elastic(self) -> None:
        # The last idle thread to take work starts the next one before it begins, so somebody always waits for the next
        # call until there are enough; nobody has to count or to poll.
        execute, idle = self._seat.worker(), self._idle
        works = iter(partial(self._get_within, self._idle_timeout), None)
        while True:
            try:
                for work in works:
                    idle.pop()
                    if not idle:
                        self.grow()
                    execute(work)
                    del work  # as in _work_fixed
                    idle.append(None)
                idle.pop()
                break
            except Empty:
                if self._leave():
                    break
        execute(None)  # says that this worker ends

    def _leave(self) -> bool:
        """Whether this thread, which found no work, may end: others must be kept, and one of them must be idle."""
        with self._lock:
            if self._ended or len(self._threads) <= max(self._kept, 1) or len(self._idle) <= 1:
                return False
            self._idle.pop()
            self._threads.discard(threading.current_thread())
            return True

    def alive(self) -> int:
        """Threads that have not ended."""
        with self._lock:
            return sum(thread.is_alive() for thread in self._threads)

    def end(self, end_worker: Callable[[], None]) -> list[threading.Thread]:
        """Have every thread end when it next looks for work, by *end_worker*; gives them. Idempotent."""
        with self._lock:
            if not self._ended:
                self._ended = True
                for _ in self._threads:
                    end_worker()
            return list(self._threads)


def join_all(threads: Iterable[threading.Thread], grace: float) -> int:
    """
    Wait at most *grace* seconds in all for *threads* to end; how many have not. The calling thread does not count.
    """
    until = monotonic() + grace
    left = 0
    for thread in threads:
        if thread is threading.current_thread():
            continue
        thread.join(max(0.0, until - monotonic()))
        left += thread.is_alive()
    return left
