"""
A clock whose time passes only when a test moves it.

`VirtualClock` is a `sage_plugins.clock.Clock`. So a test of code that uses its clock for time and timers can cover
hours at once, with the same course of events each time:

    clock = VirtualClock()
    clock.call_at(clock.monotonic() + 3600, print)
    clock.advance(3599)  # nothing yet
    clock.advance(1)  # prints

It does not help with code that blocks a thread, for example `Call.result` of a call that is not done: nothing would
advance the clock.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.clock import Timer

__all__ = ["VirtualClock"]


class _Alarm:
    """One entry of the heap. `cancel` empties it, and the clock drops it when its time comes."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """
    A clock that stands still until one thread moves it. Any thread can set and cancel timers.

    Timers run inside `advance`, `run_until` and `run_all`, in order of time. Timers for the same moment run in the
    order in which they were set. While a timer runs, `monotonic()` returns the moment for which it was set, or the
    current time if that was in the past. A timer may set timers, which run in the same order. The method that runs a
    timer raises what the timer raises.

    Attributes:
        monotonic: Returns the current time of the clock in seconds.
    """

    def __init__(self, start: float = 1000.0) -> None:
        """
        Set the clock.

        Args:
            start: First reading in seconds. The default is not 0, because real clocks do not start at 0 either.
        """
        self._now = start
        self.monotonic: Callable[[], float] = lambda: self._now
        self._alarms: list[tuple[float, int, _Alarm]] = []
        self._order = count()  # breaks ties, so that two alarms are never compared

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run *callback* when the clock reaches *when*. It never runs inside this call, even if *when* is past."""
        alarm = _Alarm(callback)
        heappush(self._alarms, (when, next(self._order), alarm))
        return alarm

    def advance(self, seconds: float) -> None:
        """
        Move the clock by *seconds*. 0 runs timers that are due now.

        Raises:
            ValueError: *seconds* is below 0.
        """
        if not seconds >= 0:
            msg = f"time does not go back: seconds must be 0 or more, got {seconds!r}"
            raise ValueError(msg)
        self.run_until(self._now + seconds)

    def run_until(self, when: float) -> None:
        """
        Move the clock to *when*, and run all timers due until then, inclusive. The clock never goes back.

        Raises:
            ValueError: *when* is not finite.
        """
        if not -inf < when < inf:
            msg = f"a clock can only be moved to a moment, got {when!r}; `run_all` runs every timer"
            raise ValueError(msg)
        while self.next_at() <= when:
            self._run_next()
        self._now = max(self._now, when)

    def run_all(self, limit: int = 100_000) -> None:
        """
        Move the clock until no timer is left.

        Args:
            limit: The most timers to run.

        Raises:
            RuntimeError: *limit* timers have run and there are more: some timer always sets another.
        """
        for _ in range(limit):
            if self.next_at() == inf:
                return
            self._run_next()
        if self.next_at() < inf:
            msg = f"{limit} timers have run and there are more: some timer always sets another. Use `run_until`"
            raise RuntimeError(msg)

    def next_at(self) -> float:
        """Return the moment of the next timer, or inf if there is none."""
        alarms = self._alarms
        while alarms:
            first = alarms[0]
            if first[2].callback is not None:
                return first[0]
            dropped = heappop(alarms)
            if dropped is not first:  # another thread set an earlier one meanwhile
                heappush(alarms, dropped)
        return inf

    @property
    def pending(self) -> int:
        """Number of timers that are set and have neither run nor been cancelled."""
        return sum(alarm.callback is not None for _, _, alarm in self._alarms)

    def _run_next(self) -> None:
        when, _, alarm = heappop(self._alarms)
        self._now = max(self._now, when)
        callback, alarm.callback = alarm.callback, None
        if callback is not None:
            callback()

    def __repr__(self) -> str:
        return f"<VirtualClock at {self._now:g} s, {self.pending} timers>"
