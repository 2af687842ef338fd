"""
A pool of threads that grows under load.

Not `concurrent.futures.ThreadPoolExecutor`: its exit hook joins its threads, so one stuck method would keep the
interpreter from exiting, and its `submit` takes several locks where the seat's inbox takes none (docs/performance.md).
"""

from __future__ import annotations

import os
import threading
from itertools import count
from typing import TYPE_CHECKING

from sage_deploy_threading.workers import join_all
from sage_plugins.values import RunnerStats

if TYPE_CHECKING:
    from sage_plugins.interfaces import Seat, Work

__all__ = ["Pool", "pool_size"]


def pool_size(threads: int, max_threads: int | None) -> int:
    """Threads of a pool at most: *max_threads* if given, else *threads* if more than one, else min(32, cores + 4)."""
    if max_threads is not None:
        return max_threads
    # The rule of ThreadPoolExecutor, for services that mostly wait.
    return threads if threads > 1 else min(32, (os.cpu_count() or 1) + 4)


class Pool:
    """Starts `thread_count` workers and more under load, up to `thread_pool_size`."""

    def start(self, seat: Seat) -> _PoolRunner:
        """Start the workers that are kept; one of them builds the instance and runs the hooks."""
        return _PoolRunner(seat)


class _PoolRunner:
    run_here = None

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self.slots = pool_size(seat.limits.threads, seat.limits.max_threads)
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()  # guarded by _lock
        self._ended = False  # guarded by _lock
        self._number = count()
        # One token for each worker that waits for work; see _work_elastic.
        self._idle: list[None] = []
        fixed = seat.limits.threads >= self.slots
        self._work = self._work_fixed if fixed else self._work_elastic
        for _ in range(min(seat.limits.threads, self.slots)):
            self._grow()

    def _grow(self) -> None:
        with self._lock:
            if self._ended or len(self._threads) >= self.slots:
                return
            self._idle.append(None)
            self._threads.add(self._seat.spawn(self._work, f"worker-{next(self._number)}"))

    def _work_fixed(self) -> None:
        get, execute = self._seat.get, self._seat.worker()
        while execute(get()):
            pass

    def _work_elastic(self) -> None:
        # The last idle worker to take work starts the next one before it begins, so somebody always waits for the next
        # call until the pool is full; nobody has to count or to poll.
        get, execute, idle = self._seat.get, self._seat.worker(), self._idle

        def take() -> Work | None:
            work = get()
            idle.pop()
            if not idle and work is not None:
                self._grow()
            return work

        while execute(take()):
            idle.append(None)

    def stats(self) -> RunnerStats:
        with self._lock:
            return RunnerStats(threads=sum(thread.is_alive() for thread in self._threads))

    def stop(self, grace: float) -> int:
        with self._lock:
            threads = list(self._threads)
            if not self._ended:
                self._ended = True
                for _ in threads:
                    self._seat.end_worker()
        return join_all(threads, grace)
