"""What is recorded of a service at one moment."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from math import nan
from operator import sub as minus
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sage_plugins.interfaces.families import Families, Family

__all__ = ["NOTHING", "SHARES", "Counted", "Sample", "Sampler", "percentiles", "since_start"]

#: The shares of calls whose time is kept.
SHARES: Final = (0.5, 0.95, 0.99)


class Counted(NamedTuple):
    """
    What was counted of calls since the service started.

    Attributes:
        calls: Calls that have ended.
        errors: Those of them that did not end well.
        rejected: Calls that were not accepted.
        seconds: From call to answer, of all calls together.
        buckets: Calls by how long they took.
        edges: Upper edges of all buckets but the last, which has none.
    """

    calls: float
    errors: float
    rejected: float
    seconds: float
    buckets: Sequence[float]
    edges: Sequence[float]


class Sample(NamedTuple):
    """
    One service at one moment.

    Attributes:
        counted: Its calls so far; the same object as in the sample before if none has ended since.
        queue: Calls that wait.
        inflight: Calls that hold a slot.
        slots: Calls that the replicas run at once, at most.
        abandoned: Calls that hold a slot although their caller has given up.
    """

    counted: Counted
    queue: int
    inflight: int
    slots: int
    abandoned: int


_NO_CALLS: Final = Counted(0, 0, 0, 0.0, (), ())

#: A service that cannot be composed, or that another process has.
NOTHING: Final = Sample(_NO_CALLS, 0, 0, 0, 0)


class Sampler:
    """Takes samples of services. For one thread at a time."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._read: dict[
            str, tuple[Family | None, Family | None, float, Counted]
        ] = {}  # by service, what it was read from

    def take(
        self, overview: Mapping[str, Mapping[str, Any]], counts: Mapping[str, Families]
    ) -> dict[str | None, Sample]:
        """A sample of each service in *overview*, and of all together under None; `Operations` gives both."""
        for name in self._read.keys() - overview.keys():
            del self._read[name]
        samples: dict[str | None, Sample] = {
            name: self._sample(name, said, counts.get(name, {})) for name, said in overview.items()
        }
        samples[None] = _add_up(samples.values())
        return samples

    def _sample(self, name: str, said: Mapping[str, Any], families: Families) -> Sample:
        inflight = slots = abandoned = 0
        for replica in said.get("replicas", ()):
            inflight += replica.get("inflight", 0)
            slots += replica.get("slots", 0)
            abandoned += replica.get("abandoned", 0)
        return Sample(self._counted(name, families), said.get("queue", 0), inflight, slots, abandoned)

    def _counted(self, name: str, families: Families) -> Counted:
        requests, durations = families.get("sage_requests_total"), families.get("sage_request_duration_seconds")
        rejected = sum(families["sage_rejected_total"].values.values()) if "sage_rejected_total" in families else 0
        before = self._read.get(name)
        if before is not None and before[0] is requests and before[1] is durations and before[2] == rejected:
            return before[3]
        counted = _counted(requests, durations, rejected)
        if before is not None and counted == before[3]:  # of a service that was replaced, these are added up each time
            counted = before[3]
        self._read[name] = requests, durations, rejected, counted
        return counted


def _counted(requests: Family | None, durations: Family | None, rejected: float) -> Counted:
    calls = errors = 0
    if requests is not None:
        at = requests.labels.index("outcome")
        for labels, number in requests.values.items():
            calls += number
            errors += 0 if labels[at] == "ok" else number
    seconds, *buckets = (0.0,) if durations is None else _sums(durations.values.values()) or (0.0,)
    return Counted(calls, errors, rejected, seconds, buckets, () if durations is None else durations.edges)


def _sums(rows: Collection[Sequence[float]]) -> Sequence[float]:
    """The sum of each column."""
    return list(map(sum, zip(*rows, strict=True))) if len(rows) > 1 else next(iter(rows), ())


def _add_up(samples: Collection[Sample]) -> Sample:
    """All services together; the buckets are those of services that have the edges of the first which was called."""
    counted = [each.counted for each in samples]
    edges = next((each.edges for each in counted if each.buckets), ())
    return Sample(
        Counted(
            sum(each.calls for each in counted),
            sum(each.errors for each in counted),
            sum(each.rejected for each in counted),
            sum(each.seconds for each in counted),
            _sums([each.buckets for each in counted if each.buckets and each.edges == edges]),
            edges,
        ),
        *(sum(values) for values in tuple(zip(*samples, strict=True))[1:] or ((),) * 4),
    )


def percentiles(before: Counted, now: Counted) -> list[float]:
    """
    How long the calls took that ended between two samples, in seconds: each of `SHARES` of them took no longer.

    Read from a histogram: within a bucket, durations are taken as evenly spread. No percentile is longer than the sum
    of all durations allows, so that calls which are much shorter than the first edge are not overrated.

    Returns:
        A value for each share; not a number if no call ended.
    """
    if now is before:
        return [nan] * len(SHARES)
    goes_on = before.buckets and before.edges == now.edges
    counts = list(map(minus, now.buckets, before.buckets)) if goes_on else now.buckets
    reached = list(accumulate(counts))
    if not reached or reached[-1] <= 0 or min(counts) < 0:
        return [nan] * len(SHARES)
    total = reached[-1]
    edges = (0.0, *now.edges, now.edges[-1])  # what is beyond the last edge counts as that long
    spent = max(0.0, now.seconds - before.seconds)
    found = []
    for share in SHARES:
        at = bisect_left(reached, share * total)
        part = 1 - (reached[at] - share * total) / counts[at]  # of the bucket in which the share is reached
        found.append(min(edges[at] + (edges[at + 1] - edges[at]) * part, spent / ((1 - share) * total)))
    return found


def since_start(counted: Counted) -> list[float]:
    """The same of all calls."""
    return percentiles(_NO_CALLS, counted)
