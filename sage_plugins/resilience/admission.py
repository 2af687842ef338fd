"""
Which calls of an overloaded service are not worth a slot, because they cannot be answered in time.

A state machine without a clock: it is told how long work took that came from the queue, and asked about calls. A full
queue whose delay is longer than the calls' timeout would otherwise have the replicas work for callers who have gone.

* At the door, a call is refused if those that wait before it take longer than it has.
* At the head of the queue, a call is passed over if it has less time left than its method is seen to need.

A method is seen to need its mean duration and twice the mean deviation, both smoothed as TCP does (RFC 6298); those are
92 % of calls whose durations are exponential. Where durations vary so much that this is longer than most calls have, it
is no more than half of the time that a call had at first: so a call that has waited less than that is always taken, and
what it takes corrects the estimate. Estimates are forgotten when nothing has confirmed them for a while.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["Admission", "Excess"]

#: Weight of a new duration in the mean, and of its deviation in the mean deviation.
_GAIN: Final = 1 / 8
_DEVIATION_GAIN: Final = 1 / 4

#: Mean deviations that are added to the mean.
_DEVIATIONS: Final = 2

#: Seconds after which an estimate is forgotten, at least; and as a multiple of what it says.
_FRESH_S: Final = 1.0
_FRESH_TIMES: Final = 8

#: Seconds of calm after which an overload is news again.
_CALM_S: Final = 10.0


class Excess(NamedTuple):
    """
    Why a call is refused.

    Attributes:
        wait: Seconds that the calls before it are likely to take.
        time: Seconds in which it would have to start.
    """

    wait: float
    time: float


class _Estimate:
    """How long something takes, as far as it was seen of late."""

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
    Looks at the calls of one service that wait, or are about to.

    Safe from any thread: two that tell at the same time may lose one of the durations.
    """

    def __init__(self) -> None:
        """Nothing is known: every call is admitted."""
        self._methods: dict[int, _Estimate] = {}
        self._all: _Estimate | None = None
        self._overloaded_at: float | None = None

    def ended(self, method: int, seconds: float, now: float) -> None:
        """Work of *method* that came from the queue held its slot for *seconds*."""
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
        """Whether a call that was made at *since* and gets its slot *now* is unlikely to end before its *deadline*."""
        return now + self._need(method, deadline - since, now) > deadline

    def excess(self, method: int, now: float, times: tuple[float, float], queue: tuple[int, int]) -> Excess | None:
        """
        Why a call that is made *now* has no chance; None if it has one.

        Args:
            method: Index of its method.
            now: Seconds on the clock.
            times: By when it has to start, and to end.
            queue: Calls that wait before it, and slots that take them.
        """
        waiting, slots = queue
        every = self._all
        if not waiting or not slots or every is None or not every.is_fresh(now):
            return None
        expires, deadline = times
        time = min(expires, deadline - self._need(method, deadline - now, now)) - now
        wait = waiting * every.mean / slots
        return Excess(wait, time) if wait > time else None

    def seconds_for(self, waiting: int, slots: int, now: float) -> float | None:
        """How long *waiting* calls are likely to take; None if nothing is known."""
        every = self._all
        return waiting * every.mean / slots if slots and every is not None and every.is_fresh(now) else None

    def is_news(self, now: float) -> bool:
        """Whether a call that is turned away *now* is the first one since a calm."""
        before, self._overloaded_at = self._overloaded_at, now
        return before is None or now - before > _CALM_S

    def _need(self, method: int, whole: float, now: float) -> float:
        known = self._methods.get(method)
        return min(known.need, whole / 2) if known is not None and known.is_fresh(now) else 0.0
