"""A strategy without workers: the caller's thread runs the method, one call at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_plugins.values import RunnerStats

if TYPE_CHECKING:
    from sage_plugins.interfaces import Seat

__all__ = ["Inline"]


class Inline:
    """Lets the core run calls in the callers' threads."""

    def start(self, seat: Seat) -> _InlineRunner:
        """Start nothing: `run_here` is the `execute` of the only worker."""
        return _InlineRunner(seat)


class _InlineRunner:
    # The only slot is the lock: the call that holds its token runs, and others wait in the router's queue. So two
    # threads never use `execute` at the same time.
    slots = 1

    def __init__(self, seat: Seat) -> None:
        self.run_here = seat.worker()

    def stats(self) -> RunnerStats:
        return RunnerStats(threads=0)

    def stop(self, grace: float) -> int:  # noqa: ARG002 - there is no worker to wait for
        return 0
