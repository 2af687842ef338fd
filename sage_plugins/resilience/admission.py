"""
Decides which calls of an overloaded service get no slot, because they cannot be answered in time.

If a full queue delays calls for longer than their timeout, replicas would only work for callers that have given up.
This is a state machine without a clock. The router reports how long calls from the queue took, and asks about calls.

* When a call arrives, it is refused if the calls before it take longer than the time that it has.
* When a call reaches the head of the queue, it is skipped if it has less time left than its method needs.

A method needs its mean duration plus twice the mean deviation, both smoothed as TCP does (RFC 6298). 92 % of calls with
exponential durations take no longer. The need is at most half of the time that a call had at first. So a call that has
waited less than that always runs, and its duration corrects the estimate. Estimates expire if nothing confirms them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["Admission", "Overload"]

#: Weight of a new duration in the mean, and of its deviation in the mean deviation.
_GAIN: Final = 1 / 8
_DEVIATION_GAIN: Final = 1 / 4

#: How many mean deviations are added to the mean.
_DEVIATIONS: Final = 2

#: An estimate expires after this many seconds, or after this multiple of its value, whichever is longer.
_FRESH_S: Final = 1.0
_FRESH_TIMES: Final = 8

#: Seconds without overload, after which the next overload is reported again.
_CALM_S: Final = 10.0


class Overload(NamedTuple):
    """
    Why a call is refused.

    Attributes:
        wait: Seconds that the calls before it probably take.
        time: Seconds within which it would have to start.
    """

    wait: float
    time: float


class _Estimate:
    """A smoothed estimate of a duration, from recent measurements."""

    __slots__ = ("deviation", "mean", "seen_at")

    def __init__(self, seconds: float, now: float) -> None:
        self.mean = seconds
        self.deviation = 0.0
        self.seen_at = now

    def add(self, seconds: float, now: float) -> None:
        difference = seconds - self.mean
        self.mean += _GAIN * difference
        self.deviation += _DEVIATION_GAIN * (abs(difference) - self.deviation)
        self.seen_at = now

    @property
    def need(self) -> float:
        return self.mean + _DEVIATIONS * self.deviation

    def is_fresh(self, now: float) -> bool:
        return now - self.seen_at <= max(_FRESH_S, _FRESH_TIMES * self.need)


class Admission:
    """
    Judges the calls of one service that wait or are about to wait.

    Thread-safe. If two threads report at the same time, one of the durations may be lost.
    """

    def __init__(self) -> None:
        self._methods: dict[int, _Estimate] = {}
        self._all: _Estimate | None = None
        self._overloaded_at: float | None = None

    def ended(self, method: int, seconds: float, now: float) -> None:
        """Report that a call of *method* from the queue held its slot for *seconds*."""
        known = self._methods.get(method)
        if known is None or not known.is_fresh(now):
            self._methods[method] = _Estimate(seconds, now)
        else:
            known.add(seconds, now)
        every = self._all
        if every is None or not every.is_fresh(now):
            self._all = _Estimate(seconds, now)
        else:
            every.add(seconds, now)

    def is_too_late(self, method: int, since: float, deadline: float, now: float) -> bool:
        """Whether a call made at *since* that gets its slot *now* will probably miss its *deadline*."""
        return now + self._need(method, deadline - since, now) > deadline

    def why_too_late(
        self, method: int, now: float, times: tuple[float, float], queue: tuple[int, int]
    ) -> Overload | None:
        """
        Return why a call that is made *now* cannot be answered in time; None if it can.

        Args:
            method: Index of its method.
            now: The time on the clock, in seconds.
            times: The times by which it has to start and to end.
            queue: Number of calls that wait before it, and number of slots that serve them.
        """
        waiting, slots = queue
        every = self._all
        if not waiting or not slots or every is None or not every.is_fresh(now):
            return None
        expires, deadline = times
        time = min(expires, deadline - self._need(method, deadline - now, now)) - now
        wait = waiting * every.mean / slots
        return Overload(wait, time) if wait > time else None

    def seconds_for(self, waiting: int, slots: int, now: float) -> float | None:
        """Return the seconds that *waiting* calls probably take with *slots* slots; None if nothing is known."""
        every = self._all
        return waiting * every.mean / slots if slots and every is not None and every.is_fresh(now) else None

    def begins_overload(self, now: float) -> bool:
        """Whether a call that is refused *now* begins a new overload. Records the refusal."""
        before, self._overloaded_at = self._overloaded_at, now
        return before is None or now - before > _CALM_S

    def _need(self, method: int, whole: float, now: float) -> float:
        known = self._methods.get(method)
        return min(known.need, whole / 2) if known is not None and known.is_fresh(now) else 0.0
