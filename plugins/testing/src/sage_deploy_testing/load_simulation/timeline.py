"""The events of a simulation, in order of time."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.clock import Timer

__all__ = ["Timeline"]


class _Alarm:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


def _ring(alarm: _Alarm) -> None:
    if alarm.callback is not None:
        alarm.callback()


class Timeline:
    """
    A `sage_plugins.clock.Clock` of virtual time, for one thread. As `VirtualClock`, but for millions of events.

    Events for the same moment run in the order in which they were added.

    Attributes:
        now: Seconds since the start.
        monotonic: Returns `now`.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.monotonic: Callable[[], float] = lambda: self.now
        self._events: list[tuple[float, int, Callable[[Any], object], Any]] = []
        self._order = count().__next__

    def at(self, when: float, do: Callable[[Any], object], what: Any) -> None:
        """Call `do(what)` at *when*, which must be neither past nor inf."""
        heappush(self._events, (when, self._order(), do, what))

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """As `sage_plugins.clock.Clock.call_at`."""
        alarm = _Alarm(callback)
        if when < inf:
            self.at(max(when, self.now), _ring, alarm)
        return alarm

    def run_until(self, when: float) -> None:
        """Run all events until *when*, inclusive."""
        events = self._events
        while events and events[0][0] <= when:
            self.now, _, do, what = heappop(events)
            do(what)
        self.now = when

    def run_while(self, goes_on: Callable[[], bool], until: float) -> None:
        """Run events while *goes_on* returns True, at most until *until*."""
        events = self._events
        while goes_on() and events and events[0][0] <= until:
            self.now, _, do, what = heappop(events)
            do(what)
