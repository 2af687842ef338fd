"""Runs worker threads: a fixed number of them, or as many as the load needs."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import partial
from itertools import count
from queue import Empty
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from queue import SimpleQueue

    from sage_plugins.interfaces import Seat, Work

__all__ = ["DEFAULT_MOST", "Workers", "join_all"]

#: The same formula as in ThreadPoolExecutor, for threads that mostly wait.
DEFAULT_MOST: Final = min(32, (os.cpu_count() or 1) + 4)


class Workers:
    """
    Threads that fetch work and run it. All methods are thread-safe.

    `concurrent.futures.ThreadPoolExecutor` does not fit: its exit hook joins its threads, so one stuck method would
    keep the interpreter from exiting. Its `submit` takes several locks, and a seat's inbox takes none.
    """

    def __init__(  # noqa: PLR0913 - what to run, and how many threads
        self,
        seat: Seat,
        *,
        first: int,
        most: int,
        idle_timeout: float | None,
        name: str = "worker",
        queue: SimpleQueue[Work | None] | None = None,
    ) -> None:
        """
        Start the first threads.

        Args:
            seat: The seat whose work they run.
            first: Number of threads at the start.
            most: Maximum threads under load.
            idle_timeout: Seconds without work after which a thread ends. None: never.
            name: Part of the threads' names.
            queue: Where they fetch work. Its producer calls `grow`. Default: the seat's inbox.
        """
        self._seat = seat
        self._most = most
        self._name = name
        get, get_within = (seat.get, seat.get_within) if queue is None else (queue.get, partial(queue.get, True))  # noqa: FBT003 - in a partial, only the position works
        self._get = get if idle_timeout is None else partial(get_within, idle_timeout)
        self._waiting = seat.waiting if queue is None else queue.qsize
        # Re-entrant: a signal handler may call the service while this thread starts a worker.
        self._lock = threading.RLock()
        self._threads: set[threading.Thread] = set()  # guarded by _lock
        self._ended = False  # guarded by _lock
        self._number = count()
        # One token for each thread that waits for work. A producer first adds work, then looks here. A thread first
        # removes its token, then looks for work. So one of the two notices that another thread is needed.
        self._idle: list[None] = []
        self._fixed = idle_timeout is None and first >= most
        if queue is None and not self._fixed:
            seat.when_unattended(self._idle, self._attend)
        with self._lock:  # else a thread that ends at once could leave before it is in `_threads`, and stay there
            for _ in range(first):
                self._start()

    @property
    def idle(self) -> bool:
        """Whether a thread waits for work. The value may lag."""
        return bool(self._idle)

    def grow(self) -> None:
        """Start one more thread, unless one is idle or the maximum is reached."""
        with self._lock:
            if not (self._idle or self._ended or len(self._threads) >= self._most):
                self._start()

    def _start(self) -> None:
        """Start one more thread; under `_lock`."""
        self._idle.append(None)
        try:
            work = self._work_fixed if self._fixed else self._work_elastic
            self._threads.add(self._seat.spawn(work, f"{self._name}-{next(self._number)}"))
        except RuntimeError:  # the process cannot have more threads
            self._idle.pop()
            if self._fixed or not self._threads:
                raise

    def _attend(self) -> None:
        """Handle work for which no thread waited."""
        try:
            self.grow()
        except RuntimeError:
            # No thread exists and none can start, for instance at interpreter shutdown: the caller's thread does the
            # work.
            execute = self._seat.worker()
            with suppress(Empty):
                while execute(self._seat.get_within(0)):
                    pass
            execute(None)

    def _work_fixed(self) -> None:
        get, execute = self._get, self._seat.worker()
        for work in iter(get, None):
            execute(work)
            del work  # keep nothing of it alive until the next one arrives
        execute(None)

    def _work_elastic(self) -> None:
        execute, idle, threads, most, waiting = (
            self._seat.worker(),
            self._idle,
            self._threads,
            self._most,
            self._waiting,
        )
        works = iter(self._get, None)
        while True:
            try:
                for work in works:
                    idle.pop()
                    if not idle and len(threads) < most and waiting():
                        self.grow()
                    execute(work)
                    del work  # as in _work_fixed
                    idle.append(None)
                idle.pop()
                break
            except Empty:
                if self._leave():
                    break
        execute(None)  # tells the host that this worker ends

    def _leave(self) -> bool:
        """Whether this thread, which found no work, may end: another thread is idle, or there is still no work."""
        with self._lock:
            if self._ended:
                return False
            thread = threading.current_thread()
            self._threads.discard(thread)  # first, so that a thread that removes the last token sees room for another
            self._idle.pop()
            if not self._idle and self._waiting():
                self._idle.append(None)
                self._threads.add(thread)
                return False
            return True

    def alive(self) -> int:
        """Return the number of threads that have not ended."""
        with self._lock:
            return sum(thread.is_alive() for thread in self._threads)

    def end(self, end_worker: Callable[[], None]) -> list[threading.Thread]:
        """Make each thread end at its next look for work, using *end_worker*, and return the threads. Idempotent."""
        with self._lock:
            if not self._ended:
                self._ended = True
                for _ in self._threads:
                    end_worker()
            return list(self._threads)


def join_all(threads: Iterable[threading.Thread], grace: float) -> int:
    """Wait at most *grace* seconds in total, and return how many threads still run. The calling thread is skipped."""
    until = monotonic() + grace
    left = 0
    for thread in threads:
        if thread is threading.current_thread():
            continue
        thread.join(max(0.0, until - monotonic()))
        left += thread.is_alive()
    return left
