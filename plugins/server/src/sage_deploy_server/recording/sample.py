"""What is recorded of a service at one moment, taken from its metric families."""

from __future__ import annotations

from itertools import pairwise
from math import nan
from operator import add as plus
from operator import sub as minus
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sage_plugins.interfaces.families import Families

__all__ = ["NOTHING", "Sample", "add_up", "percentiles", "sample_of"]


class Sample(NamedTuple):
    """
    One service at one moment. The first four count since the service started.

    Attributes:
        calls: Calls that have ended.
        errors: Those of them that did not end well.
        seconds: From call to answer, of all calls together.
        buckets: Calls by how long they took.
        queue: Calls that wait.
        inflight: Calls that hold a slot.
        slots: Calls that the replicas run at once, at most.
        edges: Upper edges of all buckets but the last, which has none.
        threads: Threads of the replicas.
    """

    calls: float
    errors: float
    seconds: float
    buckets: tuple[float, ...]
    queue: float
    inflight: float
    slots: float
    edges: tuple[float, ...]
    threads: float


#: A service that cannot be composed, and the sum of no services.
NOTHING = Sample(0, 0, 0.0, (), 0, 0, 0, (), 0)


def sample_of(families: Families) -> Sample:
    """What *families* of one service say."""
    calls = errors = 0
    requests = families.get("sage_requests_total")
    if requests is not None:
        at = requests.labels.index("outcome")
        for labels, number in requests.values.items():
            calls += number
            errors += 0 if labels[at] == "ok" else number
    durations = families.get("sage_request_duration_seconds")
    seconds, buckets = (0.0, ()) if durations is None else _added(durations.values.values())
    return Sample(
        calls,
        errors,
        seconds,
        buckets,
        _gauge(families, "sage_queue_depth"),
        _gauge(families, "sage_requests_in_flight"),
        _gauge(families, "sage_slots"),
        () if durations is None else durations.edges,
        sum(families["sage_threads"].values.values()) if "sage_threads" in families else 0,
    )


def _added(histograms: Iterable[Sequence[float]]) -> tuple[float, tuple[float, ...]]:
    """The sum of *histograms*, each a sum of seconds and the calls by bucket."""
    total: Sequence[float] = ()
    for each in histograms:
        total = tuple(map(plus, total, each)) if total else each
    return (total[0], tuple(total[1:])) if total else (0.0, ())


def _gauge(families: Families, name: str) -> float:
    family = families.get(name)
    value: float = 0 if family is None else family.values.get((), 0)
    return value


def add_up(samples: Iterable[Sample]) -> Sample:
    """All services together."""
    total = NOTHING
    for each in samples:
        total = Sample(
            total.calls + each.calls,
            total.errors + each.errors,
            total.seconds + each.seconds,
            _together(total, each),
            total.queue + each.queue,
            total.inflight + each.inflight,
            total.slots + each.slots,
            total.edges or each.edges,
            total.threads + each.threads,
        )
    return total


def _together(one: Sample, other: Sample) -> tuple[float, ...]:
    """The buckets of two; those of the first alone if theirs are not the same."""
    if one.buckets and other.buckets and one.edges == other.edges:
        return tuple(map(plus, one.buckets, other.buckets))
    return one.buckets or other.buckets


def percentiles(before: Sample, now: Sample, shares: Sequence[float]) -> list[float]:
    """
    How long the calls took that ended between two samples, in seconds: each of *shares* of them took no longer.

    Read from a histogram: within a bucket, durations are taken as evenly spread. No percentile is longer than the sum
    of all durations allows, so that calls which are much shorter than the first edge are not overrated.

    Returns:
        A value for each share; not a number if no call ended.
    """
    goes_on = before.buckets and before.edges == now.edges
    counts = list(map(minus, now.buckets, before.buckets)) if goes_on else list(now.buckets)
    total = sum(counts)
    if total <= 0 or min(counts) < 0:
        return [nan] * len(shares)
    spent = max(0.0, now.seconds - before.seconds)
    edges = (0.0, *now.edges, now.edges[-1])  # what is beyond the last edge counts as that long
    return [min(_reached(counts, edges, share * total), spent / ((1 - share) * total)) for share in shares]


def _reached(counts: Sequence[float], edges: Sequence[float], rank: float) -> float:
    """Where so many durations are reached."""
    passed = 0.0
    for number, (lower, upper) in zip(counts, pairwise(edges), strict=True):
        if number and passed + number >= rank:
            return lower + (upper - lower) * (rank - passed) / number
        passed += number
    return edges[-1]
