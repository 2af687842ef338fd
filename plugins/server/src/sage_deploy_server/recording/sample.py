"""Takes the recorded values of a service from its metrics."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from math import nan
from operator import sub as minus
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sage_plugins.interfaces.families import Families, Family

__all__ = ["NOTHING", "QUANTILES", "CallCounts", "Sample", "Sampler", "percentiles", "since_start"]

#: Quantiles of the call durations that are kept.
QUANTILES: Final = (0.5, 0.95, 0.99)


class CallCounts(NamedTuple):
    """
    Counts of a service's calls since it started.

    Attributes:
        calls: Calls that have ended.
        errors: Calls that ended with an error.
        rejected: Calls that were not accepted.
        seconds: Sum of the durations of all calls.
        buckets: Number of calls by duration.
        edges: Upper edges of all buckets except the last, which is open.
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
        call_counts: Counts of its calls. The same object as in the previous sample if no call has ended since.
        queue: Calls that wait.
        inflight: Calls that hold a slot.
        slots: Maximum calls that the replicas run at once.
        abandoned: Calls that hold a slot although their caller has given up.
    """

    call_counts: CallCounts
    queue: int
    inflight: int
    slots: int
    abandoned: int


_NO_CALLS: Final = CallCounts(0, 0, 0, 0.0, (), ())

#: The sample of a service that cannot be composed, or that belongs to another process.
NOTHING: Final = Sample(_NO_CALLS, 0, 0, 0, 0)


class Sampler:
    """Takes samples of services. Not thread-safe."""

    def __init__(self) -> None:
        self._read: dict[
            str, tuple[Family | None, Family | None, float, CallCounts]
        ] = {}  # by service: the families read, and the result

    def take(
        self, overview: Mapping[str, Mapping[str, Any]], counts: Mapping[str, Families]
    ) -> dict[str | None, Sample]:
        """
        Return a sample of each service in *overview*, and of all together under None.

        `Operations` provides both arguments.
        """
        for name in self._read.keys() - overview.keys():
            del self._read[name]
        samples: dict[str | None, Sample] = {
            name: self._sample(name, status, counts.get(name, {})) for name, status in overview.items()
        }
        samples[None] = _add_up(samples.values())
        return samples

    def _sample(self, name: str, status: Mapping[str, Any], families: Families) -> Sample:
        inflight = slots = abandoned = 0
        for replica in status.get("replicas", ()):
            inflight += replica.get("inflight", 0)
            slots += replica.get("slots", 0)
            abandoned += replica.get("abandoned", 0)
        return Sample(self._call_counts(name, families), status.get("queue", 0), inflight, slots, abandoned)

    def _call_counts(self, name: str, families: Families) -> CallCounts:
        requests, durations = families.get("sage_requests_total"), families.get("sage_request_duration_seconds")
        rejected = sum(families["sage_rejected_total"].values.values()) if "sage_rejected_total" in families else 0
        before = self._read.get(name)
        if before is not None and before[0] is requests and before[1] is durations and before[2] == rejected:
            return before[3]
        call_counts = _count_calls(requests, durations, rejected)
        if before is not None and call_counts == before[3]:  # the sums of a replaced service are new objects each time
            call_counts = before[3]
        self._read[name] = requests, durations, rejected, call_counts
        return call_counts


def _count_calls(requests: Family | None, durations: Family | None, rejected: float) -> CallCounts:
    calls = errors = 0
    if requests is not None:
        at = requests.labels.index("outcome")
        for labels, number in requests.values.items():
            calls += number
            errors += 0 if labels[at] == "ok" else number
    seconds, *buckets = (0.0,) if durations is None else _sums(durations.values.values()) or (0.0,)
    return CallCounts(calls, errors, rejected, seconds, buckets, () if durations is None else durations.edges)


def _sums(rows: Collection[Sequence[float]]) -> Sequence[float]:
    return list(map(sum, zip(*rows, strict=True))) if len(rows) > 1 else next(iter(rows), ())


def _add_up(samples: Collection[Sample]) -> Sample:
    """Add up all services. Buckets count only for services with the same edges as the first service that was called."""
    all_counts = [each.call_counts for each in samples]
    edges = next((each.edges for each in all_counts if each.buckets), ())
    return Sample(
        CallCounts(
            sum(each.calls for each in all_counts),
            sum(each.errors for each in all_counts),
            sum(each.rejected for each in all_counts),
            sum(each.seconds for each in all_counts),
            _sums([each.buckets for each in all_counts if each.buckets and each.edges == edges]),
            edges,
        ),
        *(sum(values) for values in tuple(zip(*samples, strict=True))[1:] or ((),) * 4),
    )


def percentiles(before: CallCounts, now: CallCounts) -> list[float]:
    """
    Return percentiles of the durations of calls that ended between two samples, in seconds, for each of `QUANTILES`.

    Read from a histogram, as if durations were spread evenly within a bucket. The sum of all durations limits each
    percentile. So calls much shorter than the first edge are not overestimated.

    Returns:
        A value for each quantile; NaN if no call ended.
    """
    if now is before:
        return [nan] * len(QUANTILES)
    goes_on = before.buckets and before.edges == now.edges
    counts = list(map(minus, now.buckets, before.buckets)) if goes_on else now.buckets
    reached = list(accumulate(counts))
    if not reached or reached[-1] <= 0 or min(counts) < 0:
        return [nan] * len(QUANTILES)
    total = reached[-1]
    edges = (0.0, *now.edges, now.edges[-1])  # calls beyond the last edge count as that long
    spent = max(0.0, now.seconds - before.seconds)
    found = []
    for quantile in QUANTILES:
        at = bisect_left(reached, quantile * total)
        part = 1 - (reached[at] - quantile * total) / counts[at]  # how much of the bucket is below the quantile
        found.append(min(edges[at] + (edges[at + 1] - edges[at]) * part, spent / ((1 - quantile) * total)))
    return found


def since_start(call_counts: CallCounts) -> list[float]:
    """Return the same percentiles for all calls."""
    return percentiles(_NO_CALLS, call_counts)
