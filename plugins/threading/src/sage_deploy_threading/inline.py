"""No worker at all: the caller's thread runs the method, one call at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_plugins.values import RunnerStats

if TYPE_CHECKING:
    from sage_plugins.interfaces import Seat

__all__ = ["Inline"]


class Inline:
    """Has the core run calls where they are made."""

    def start(self, seat: Seat) -> _InlineRunner:
        """Nothing to start: `run_here` is the one worker's `execute`."""
        return _InlineRunner(seat)


class _InlineRunner:
    # The one slot is the lock: whoever holds its token runs, the others wait in the router's queue. So `execute` is
    # never used by two threads at once.
    slots = 1

    def __init__(self, seat: Seat) -> None:
        self.run_here = seat.worker()

    def stats(self) -> RunnerStats:
        return RunnerStats(threads=0)

    def stop(self, grace: float) -> int:  # noqa: ARG002 - there is no worker to wait for
        return 0
