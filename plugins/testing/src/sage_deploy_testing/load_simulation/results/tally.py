"""What is counted while a simulation runs, in memory that does not grow with the number of calls."""

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

#: Buckets for each doubling of a duration: a bucket is 2.2 % wide, and its middle at most 1.1 % off.
_PER_DOUBLING: Final = 32
#: 2**-30 s, about a nanosecond, is the lowest bucket; 2**34 s the highest.
_LOWEST: Final = 30 * _PER_DOUBLING
_BUCKETS: Final = 64 * _PER_DOUBLING

#: Numbers that are kept before the digest takes them.
_KEPT: Final = 3 * 4096

#: How a call ended, by the class of its error; the first that fits.
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
    """The bucket of a duration."""
    if seconds <= 0:
        return 0
    return min(max(int(log2(seconds) * _PER_DOUBLING + _LOWEST), 0), _BUCKETS - 1)


def middle_of(bucket: int) -> float:
    """The seconds in the middle of a bucket; of the lowest, 0."""
    return float(2.0 ** ((bucket + 0.5 - _LOWEST) / _PER_DOUBLING)) if bucket else 0.0


class Durations:
    """A histogram of durations, and their sum and maximum."""

    __slots__ = ("counts", "longest", "total")

    def __init__(self) -> None:
        """Know none."""
        self.counts = [0] * _BUCKETS
        self.total = 0.0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bucket_of(seconds)] += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    def __len__(self) -> int:
        """How many there are."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Their mean; nan of none."""
        number = len(self)
        return self.total / number if number else float("nan")

    def merge(self, other: Durations) -> None:
        """Count those of *other*, too."""
        self.counts = list(map(add, self.counts, other.counts))
        self.total += other.total
        self.longest = max(self.longest, other.longest)

    def share(self, share: float) -> float:
        """The duration that so large a *share* of them does not exceed, within 1.1 %; nan of none."""
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
    What happened in one slice of time, and how the service was at its end.

    Attributes:
        calls: Calls that came.
        ok: Calls that were answered.
        failed: Calls that ended otherwise.
        latency: From call to answer, of the calls that came, whenever they were answered.
        ready: Replicas that took calls.
        wanted: Replicas that there should have been.
        queued: Calls that waited.
        running: Calls that ran.
    """

    __slots__ = ("calls", "failed", "latency", "ok", "queued", "ready", "running", "wanted")

    def __init__(self) -> None:
        """Nothing has happened."""
        self.calls = self.ok = self.failed = 0
        self.latency = Durations()
        self.ready = self.wanted = self.queued = self.running = 0


class Series:
    """
    Slices of the time in which calls come, equally long.

    Attributes:
        step: Seconds of each.
        moments: The slices, from the beginning; the last one has what came after them.
    """

    def __init__(self, step: float) -> None:
        """Begin with the first slice."""
        self.step = step
        self.moments = [Moment()]

    def look(self, ready: int, wanted: int, queued: int, running: int) -> None:
        """A slice ends, in which the service is so; the next begins."""
        now = self.moments[-1]
        now.ready, now.wanted, now.queued, now.running = ready, wanted, queued, running
        self.moments.append(Moment())


class Tally:
    """
    What has become of the calls.

    Attributes:
        calls: Calls made.
        open: Those of them that have not ended.
        outcomes: Those that have, by how: one of `OUTCOMES`.
        refused: Calls that were not accepted, by reason.
        latency: From call to answer, of those with one.
        wait: From call to start of the method, likewise.
        starts: How often a method was started.
        first_replicas: Replicas at the beginning.
        latest: When a call ended last.
        series: The same over time.
        trace: What happened, line by line; None if nobody wants to know.
        events: What was decided: seconds, kind, reason, replica. No more than `MOST_EVENTS`.
        kinds: How many events there were, by kind.
    """

    MOST_EVENTS: Final = 10_000

    def __init__(self, timeline: Timeline, step: float, *, trace: bool) -> None:
        """Nothing has happened."""
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
        """A call is about to be routed: it gets its number."""
        self.calls += 1
        self.open += 1
        call.number = self.calls
        self.series.moments[-1].calls += 1
        if self.trace is not None:
            key = "" if call.options.key is None else f" key {call.options.key}"
            self.note(f"call {self.calls} {call.method.name}{key}")

    def started(self, call: Any, replica: str) -> None:
        """A method is started."""
        self.starts += 1
        if self.trace is not None:
            self.note(f"start {call.number} {replica}")

    def ended(self, call: Any, error: BaseException | None) -> None:
        """A call has ended, or was refused."""
        now, moment = self._timeline.now, self.series.moments[-1]
        self.open -= 1
        if error is None:
            number = 0
            seconds = now - call.since
            # `Durations.add` written out three times: this is on the path of every call.
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
        """Something was decided."""
        self.kinds[str(kind)] += 1
        if len(self.events) < self.MOST_EVENTS:
            self.events.append((self._timeline.now, str(kind), reason, replica))
        self._hash.update(f"{self._timeline.now!r} {kind} {replica} {reason}\n".encode())
        if self.trace is not None:
            self.note(f"event {kind} {replica or '-'} {reason}")

    def note(self, what: str) -> None:
        """Add a line to the trace, which there is."""
        assert self.trace is not None
        self.trace.append(f"{self._timeline.now:.9f} {what}")

    def digest(self) -> str:
        """The same for the same course of events: of each call its number, how it ended and when; and of each event."""
        found = self._hash.copy()
        found.update(self._kept.tobytes())
        return found.hexdigest()
