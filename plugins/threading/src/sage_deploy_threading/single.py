"""One thread that runs everything, in order: what services that are not thread-safe need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_deploy_threading.workers import join_all
from sage_plugins.values import RunnerStats

if TYPE_CHECKING:
    from sage_plugins.interfaces import Seat

__all__ = ["Single"]


class Single:
    """Starts one worker."""

    def start(self, seat: Seat) -> _SingleRunner:
        """Start the worker; it builds the instance, runs the hooks and every call."""
        return _SingleRunner(seat)


class _SingleRunner:
    slots = 1
    run_here = None

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._ended = False
        self._thread = seat.spawn(self._work, "worker")

    def _work(self) -> None:
        get, execute = self._seat.get, self._seat.worker()
        for work in iter(get, None):
            execute(work)
            del work  # until the next comes, nothing of it may be kept alive
        execute(None)

    def stats(self) -> RunnerStats:
        return RunnerStats(threads=int(self._thread.is_alive()))

    def stop(self, grace: float) -> int:
        if not self._ended:
            self._ended = True
            self._seat.end_worker()
        return join_all([self._thread], grace)
