"""
Time that passes only when a test says so.

`VirtualClock` is a `sage_plugins.clock.Clock`, so whatever asks its clock for the time and for timers can be tested
over hours of virtual time in no time at all, with the same course of events every time:

    clock = VirtualClock()
    clock.call_at(clock.monotonic() + 3600, print)
    clock.advance(3599)  # nothing yet
    clock.advance(1)  # prints

It is no help for code that blocks a thread, such as `Call.result` of a call that is not over: nobody would be left to
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
    """One entry of the heap; cancelling empties it and leaves it to be dropped when it comes up."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """
    A clock that stands still until it is told to move on, by one thread; timers are set and cancelled from any.

    Timers run inside `advance`, `run_until` and `run_all`, in order of time; those for the same moment in the order in
    which they were set. While one runs, `monotonic()` is the moment for which it was set, or the present if that was in
    the past. Timers set meanwhile take their turn like all others. What a timer raises comes out of the method that ran
    it.

    Attributes:
        monotonic: Seconds, as far as the clock was moved.
    """

    def __init__(self, start: float = 1000.0) -> None:
        """
        Set the clock.

        Args:
            start: First reading. Not 0 by default: real clocks are not at 0 either.
        """
        self._now = start
        self.monotonic: Callable[[], float] = lambda: self._now
        self._alarms: list[tuple[float, int, _Alarm]] = []
        self._order = count()  # breaks ties, so that two alarms never get compared

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run *callback* when the clock is moved to *when* or beyond; never at once, not even if that is past."""
        alarm = _Alarm(callback)
        heappush(self._alarms, (when, next(self._order), alarm))
        return alarm

    def advance(self, seconds: float) -> None:
        """Move on by *seconds*; 0 runs what is due now."""
        if not seconds >= 0:
            msg = f"time does not go back: seconds must be 0 or more, got {seconds!r}"
            raise ValueError(msg)
        self.run_until(self._now + seconds)

    def run_until(self, when: float) -> None:
        """Move on to *when*, with everything that is due until then, that moment included; does not go back."""
        if not -inf < when < inf:
            msg = f"a clock can only be moved to a moment, got {when!r}; `run_all` runs every timer"
            raise ValueError(msg)
        while self.next_at() <= when:
            self._run_next()
        self._now = max(self._now, when)

    def run_all(self, limit: int = 100_000) -> None:
        """
        Move on until no timer is left.

        Args:
            limit: Timers to run at most.

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
        """The moment of the next timer, inf if there is none."""
        alarms = self._alarms
        while alarms:
            first = alarms[0]
            if first[2].callback is not None:
                return first[0]
            dropped = heappop(alarms)
            if dropped is not first:  # another thread has set an earlier one meanwhile
                heappush(alarms, dropped)
        return inf

    @property
    def pending(self) -> int:
        """Timers that are set and have neither run nor been cancelled."""
        return sum(alarm.callback is not None for _, _, alarm in self._alarms)

    def _run_next(self) -> None:
        when, _, alarm = heappop(self._alarms)
        self._now = max(self._now, when)
        callback, alarm.callback = alarm.callback, None
        if callback is not None:
            callback()

    def __repr__(self) -> str:
        """The time and what is still to come."""
        return f"<VirtualClock at {self._now:g} s, {self.pending} timers>"
