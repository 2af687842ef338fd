"""Threads that fetch work: a fixed number of them, or as many as the load needs."""

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
        first: int,
        most: int,
        idle_timeout: float | None,
        name: str = "worker",
        queue: SimpleQueue[Work | None] | None = None,
    ) -> None:
        """
        Start the first threads.

        Args:
            seat: Whose work they run.
            first: Threads at the beginning.
            most: Threads under load.
            idle_timeout: Seconds without work after which a thread ends; None if none does.
            name: For the threads' names.
            queue: Where they fetch work, whose producer calls `grow`; the seat's inbox by default.
        """
        self._seat = seat
        self._most = most
        self._name = name
        get, get_within = (seat.get, seat.get_within) if queue is None else (queue.get, partial(queue.get, True))  # noqa: FBT003 - takes it by position only in a partial
        self._get = get if idle_timeout is None else partial(get_within, idle_timeout)
        self._waiting = seat.waiting if queue is None else queue.qsize
        # Re-entrant: a signal handler may call the service while this thread starts a worker.
        self._lock = threading.RLock()
        self._threads: set[threading.Thread] = set()  # guarded by _lock
        self._ended = False  # guarded by _lock
        self._number = count()
        # One token for each thread that waits for work. Who brings work looks here afterwards, and a thread that takes
        # its token away looks for work afterwards. So one of the two sees that another thread is needed.
        self._idle: list[None] = []
        self._fixed = idle_timeout is None and first >= most
        if queue is None and not self._fixed:
            seat.when_unattended(self._idle, self._attend)
        for _ in range(first):
            self._start()

    @property
    def idle(self) -> bool:
        """Whether a thread waits for work; may lag."""
        return bool(self._idle)

    def grow(self) -> None:
        """Start one more thread, unless one is idle or there are enough."""
        with self._lock:
            if not (self._idle or self._ended or len(self._threads) >= self._most):
                self._start()

    def _start(self) -> None:
        self._idle.append(None)
        try:
            work = self._work_fixed if self._fixed else self._work_elastic
            self._threads.add(self._seat.spawn(work, f"{self._name}-{next(self._number)}"))
        except RuntimeError:  # the process can have no more threads
            self._idle.pop()
            if self._fixed or not self._threads:
                raise

    def _attend(self) -> None:
        """Work has come, and no thread waited for it."""
        try:
            self.grow()
        except RuntimeError:
            # There is no thread and can be none, as when the interpreter shuts down: the caller's own does the work.
            execute = self._seat.worker()
            with suppress(Empty):
                while execute(self._seat.get_within(0)):
                    pass
            execute(None)

    def _work_fixed(self) -> None:
        get, execute = self._get, self._seat.worker()
        for work in iter(get, None):
            execute(work)
            del work  # until the next comes, nothing of it may be kept alive
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
        execute(None)  # says that this worker ends

    def _leave(self) -> bool:
        """Whether this thread, which found no work, may end: another is idle, or there is still no work."""
        with self._lock:
            if self._ended:
                return False
            thread = threading.current_thread()
            self._threads.discard(thread)  # first: who takes the last token away then sees that there may be another
            self._idle.pop()
            if not self._idle and self._waiting():
                self._idle.append(None)
                self._threads.add(thread)
                return False
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
