"""Counts what happens in a simulation, in memory that does not grow with the number of calls."""

from __future__ import annotations

from array import array
from collections import Counter
from hashlib import blake2b
from math import log2
from operator import add
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.errors import (
    CallCancelledError,
    CallTimeoutError,
    CircuitOpenError,
    NoReplicaError,
    OverloadedError,
    ReplicaDiedError,
    ServiceStoppedError,
)

if TYPE_CHECKING:
    from sage_deploy_testing.load_simulation.timeline import Timeline

__all__ = ["Durations", "Moment", "Series", "Tally"]

#: Buckets for each doubling of a duration. A bucket is 2.2 % wide, so its middle is at most 1.1 % off.
_PER_DOUBLING: Final = 32
#: The lowest bucket is 2**-30 s, about a nanosecond. The highest is 2**34 s.
_LOWEST: Final = 30 * _PER_DOUBLING
_BUCKETS: Final = 64 * _PER_DOUBLING

#: The number of values that are collected before the digest takes them.
_KEPT: Final = 3 * 4096

#: The outcome of a call by the class of its error. The first class that fits counts.
_ENDS: Final = (
    (CallTimeoutError, "timeout"),
    (ReplicaDiedError, "died"),
    (CircuitOpenError, "refused"),
    (NoReplicaError, "refused"),
    (OverloadedError, "refused"),
    (CallCancelledError, "cancelled"),
    (ServiceStoppedError, "stopped"),
)
OUTCOMES: Final = ("ok", "error", "timeout", "died", "refused", "cancelled", "stopped")
_NUMBERS: Final = {name: number for number, name in enumerate(OUTCOMES)}


def bucket_of(seconds: float) -> int:
    """Return the bucket of a duration."""
    if seconds <= 0:
        return 0
    return min(max(int(log2(seconds) * _PER_DOUBLING + _LOWEST), 0), _BUCKETS - 1)


def middle_of(bucket: int) -> float:
    """Return the seconds in the middle of a bucket, or 0 for the lowest."""
    return float(2.0 ** ((bucket + 0.5 - _LOWEST) / _PER_DOUBLING)) if bucket else 0.0


class Durations:
    """A histogram of durations, and their sum and maximum."""

    __slots__ = ("counts", "longest", "total")

    def __init__(self) -> None:
        self.counts = [0] * _BUCKETS
        self.total = 0.0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Add a duration."""
        self.counts[bucket_of(seconds)] += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Their mean, or nan without durations."""
        number = len(self)
        return self.total / number if number else float("nan")

    def merge(self, other: Durations) -> None:
        """Add the durations of *other*."""
        self.counts = list(map(add, self.counts, other.counts))
        self.total += other.total
        self.longest = max(self.longest, other.longest)

    def share(self, share: float) -> float:
        """Return the duration that this *share* of them does not exceed, within 1.1 %, or nan without durations."""
        wanted, seen = share * len(self), 0
        if not wanted:
            return float("nan")
        for bucket, count in enumerate(self.counts):
            seen += count
            if seen >= wanted:
                return min(middle_of(bucket), self.longest)
        return self.longest


class Moment:
    """
    What happened in one slice of time, and the state of the service at its end.

    Attributes:
        calls: Calls that arrived.
        ok: Calls that were answered.
        failed: Calls that ended with an error.
        latency: Seconds from call to answer, for the calls that arrived in the slice, whenever they were answered.
        ready: Replicas that took calls.
        wanted: Replicas that there should have been.
        queued: Calls that waited.
        running: Calls that ran.
    """

    __slots__ = ("calls", "failed", "latency", "ok", "queued", "ready", "running", "wanted")

    def __init__(self) -> None:
        self.calls = self.ok = self.failed = 0
        self.latency = Durations()
        self.ready = self.wanted = self.queued = self.running = 0


class Series:
    """
    Slices of equal length of the time in which calls arrive.

    Attributes:
        step: Length of each in seconds.
        moments: The slices in order. The last one has what came after them.
    """

    def __init__(self, step: float) -> None:
        self.step = step
        self.moments = [Moment()]

    def look(self, ready: int, wanted: int, queued: int, running: int) -> None:
        """End a slice with this state of the service, and start the next."""
        now = self.moments[-1]
        now.ready, now.wanted, now.queued, now.running = ready, wanted, queued, running
        self.moments.append(Moment())


class Tally:
    """
    Counts the calls by outcome, and records the events.

    Attributes:
        calls: Number of calls made.
        open: Number of these that have not ended.
        outcomes: Number of calls that ended with an error, by outcome. Answered calls are in `latency`.
        refused: Number of calls that were not accepted, by reason.
        latency: Seconds from call to answer, for answered calls.
        wait: Seconds from call to start of the method, for answered calls.
        starts: How often a method was started.
        first_replicas: Number of replicas at the start.
        latest: When the last call ended.
        series: The same numbers over time.
        trace: A line for each event; None without a trace.
        events: Faults and decisions: seconds, kind, reason, replica. At most `MOST_EVENTS`.
        kinds: Number of events by kind.
    """

    MOST_EVENTS: Final = 10_000

    def __init__(self, timeline: Timeline, step: float, *, trace: bool) -> None:
        self._timeline = timeline
        self.calls = self.open = self.starts = self.first_replicas = 0
        self.outcomes: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.latency, self.wait = Durations(), Durations()
        self.latest = float("-inf")
        self.series = Series(step)
        self._slices_per_s = 1 / step
        self.trace: list[str] | None = [] if trace else None
        self.events: list[tuple[float, str, str, str | None]] = []
        self.kinds: Counter[str] = Counter()
        self._hash = blake2b(digest_size=16)
        self._kept = array("d")

    def made(self, call: Any) -> None:
        """Count a call that will be routed, and give it its number."""
        self.calls += 1
        self.open += 1
        call.number = self.calls
        self.series.moments[-1].calls += 1
        if self.trace is not None:
            key = "" if call.options.key is None else f" key {call.options.key}"
            self.note(f"call {self.calls} {call.method.name}{key}")

    def started(self, call: Any, replica: str) -> None:
        """Count a start of a method."""
        self.starts += 1
        if self.trace is not None:
            self.note(f"start {call.number} {replica}")

    def ended(self, call: Any, error: BaseException | None) -> None:
        """Count a call that has ended or was refused."""
        now, moment = self._timeline.now, self.series.moments[-1]
        self.open -= 1
        if error is None:
            number = 0
            seconds = now - call.since
            # This repeats `Durations.add` because it is on the path of every call.
            bucket = int(log2(seconds) * _PER_DOUBLING + _LOWEST) if seconds > 1e-9 else 0  # noqa: PLR2004 - as _LOWEST
            moments = self.series.moments
            came = int(call.since * self._slices_per_s)
            for durations in (self.latency, (moments[came] if came < len(moments) else moment).latency):
                durations.counts[bucket] += 1
                durations.total += seconds
                durations.longest = max(durations.longest, seconds)
            seconds = call.began - call.since
            wait = self.wait
            if seconds > 0:
                wait.counts[int(log2(seconds) * _PER_DOUBLING + _LOWEST) if seconds > 1e-9 else 0] += 1  # noqa: PLR2004
                wait.total += seconds
                wait.longest = max(wait.longest, seconds)
            else:
                wait.counts[0] += 1
            moment.ok += 1
            self.latest = now
        else:
            how = next((name for kind, name in _ENDS if isinstance(error, kind)), "error")
            number = _NUMBERS[how]
            self.outcomes[how] += 1
            moment.failed += 1
            if how != "refused":
                self.latest = now
        kept = self._kept
        kept.extend((call.number, number, now))
        if len(kept) >= _KEPT:
            self._hash.update(kept.tobytes())
            del kept[:]
        if self.trace is not None:
            self.note(f"end {call.number} {OUTCOMES[number]}")

    def tell(self, kind: str, reason: str, replica: str | None = None) -> None:
        """Record a fault or a decision."""
        self.kinds[str(kind)] += 1
        if len(self.events) < self.MOST_EVENTS:
            self.events.append((self._timeline.now, str(kind), reason, replica))
        self._hash.update(f"{self._timeline.now!r} {kind} {replica} {reason}\n".encode())
        if self.trace is not None:
            self.note(f"event {kind} {replica or '-'} {reason}")

    def note(self, what: str) -> None:
        """Add a line to the trace. Only with a trace."""
        assert self.trace is not None
        self.trace.append(f"{self._timeline.now:.9f} {what}")

    def digest(self) -> str:
        """Return a hash of each call's number, outcome and time, and of each event. Equal runs have equal hashes."""
        found = self._hash.copy()
        found.update(self._kept.tobytes())
        return found.hexdigest()
