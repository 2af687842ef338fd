"""
Counts calls and measures their durations, at the cost of a few additions.

Each worker has its own cells, so no call takes a lock and no count is lost. A snapshot adds up the cells.
"""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_left
from collections import defaultdict
from functools import cache
from math import inf
from operator import is_
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from sage_deploy_monitors.process_usage import ProcessUsage
from sage_plugins.interfaces import QuietMonitor
from sage_plugins.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sage_plugins.interfaces.families import Family
    from sage_plugins.values import ReplicaInfo

__all__ = ["EDGES_S", "MOST_PAIRS", "Cells", "Metrics", "MetricsRecorder"]

#: Upper edges of the histogram's buckets in seconds: from 1 us to about 1,000 s, each 20 % above the one before. So a
#: percentile is at most 20 % or 1 us off, and 22 % after calls were folded.
EDGES_S: Final[tuple[float, ...]] = tuple(1e-6 * 1.2**power for power in range(115))
_SHORTEST_S: Final = EDGES_S[0]

# One histogram of two dimensions counts waiting and running together. So their sum, the time from call to reply, needs
# no third histogram and keeps its precision. The bucket after the last edge is for longer durations. The one after
# that is for durations that do not exist or are unknown.
_NONE: Final = len(EDGES_S) + 1
_WIDTH: Final = _NONE + 1
_UPPER_S: Final = (*EDGES_S, inf, 0.0)
_LOWER_S: Final = (0.0, *EDGES_S, 0.0)

#: How many pairs of a wait and a run a worker keeps for a method, of 13,689 possible ones. It folds any more into
#: three histograms of one dimension, so that memory does not grow while a service runs.
MOST_PAIRS: Final = 512

#: Upper and lower edge of a bucket in seconds.
_Range: TypeAlias = tuple[float, float]

# Sums for a method's calls: seconds by use, then calls by outcome. Successful calls are not summed: they are the
# histogram's total minus the other outcomes.
_WAIT: Final = 0
_RUN: Final = 1
_GIVEN_UP: Final = 2
_OUTCOME: Final = 3
_SUMS: Final = _OUTCOME + len(Outcome.NAMES)

#: Which of `Cells.folded` has every folded call.
_TOTALS: Final = 2


class _Pairs(dict[int, int]):
    """The calls of one worker by bucket of waiting and running. It folds itself when it has too many buckets."""

    __slots__ = ("fold",)

    fold: Callable[[], None]

    def __missing__(self, bucket: int) -> int:
        if len(self) >= MOST_PAIRS:
            self.fold()
        return 0


class Cells(NamedTuple):
    """
    The counts of one method.

    Attributes:
        pairs: Calls by bucket of waiting and running: `wait * width + run`.
        sums: Seconds waited, run and given up, then calls by outcome.
        folded: All other calls, in three histograms: by wait, by run, and by their sum.
    """

    pairs: dict[int, int]
    sums: list[float]
    folded: tuple[dict[int, int], dict[int, int], dict[int, int]]

    @classmethod
    def empty(cls, pairs: dict[int, int] | None = None) -> Cells:
        """Return cells without calls."""
        return cls({} if pairs is None else pairs, [0.0] * _SUMS, ({}, {}, {}))

    def copied(self) -> Cells:
        """Return a copy that no longer changes."""
        waits, runs, totals = self.folded
        return Cells(self.pairs.copy(), self.sums.copy(), (waits.copy(), runs.copy(), totals.copy()))

    def calls(self) -> int:
        """Return how many calls were counted."""
        return sum(self.pairs.values()) + sum(self.folded[_TOTALS].values())

    def add(self, other: Cells) -> None:
        """Add the counts of *other*, into which a worker may be counting."""
        for mine, theirs in ((self.pairs, other.pairs), *zip(self.folded, other.folded, strict=True)):
            for bucket, number in theirs.copy().items():  # in one step of the interpreter
                mine[bucket] = mine.get(bucket, 0) + number
        for at, amount in enumerate(other.sums):
            self.sums[at] += amount
        if len(self.pairs) > MOST_PAIRS:
            self.fold()

    def fold(self) -> None:
        """Move the pairs into `folded`: the wait and the run of a call are no longer connected."""
        edges = _sum_edges_s()
        waits, runs, totals = self.folded
        for bucket, number in self.pairs.items():
            wait, run = divmod(bucket, _WIDTH)
            total = bisect_left(edges, _UPPER_S[wait] + _UPPER_S[run])
            totals[total] = totals.get(total, 0) + number
            if wait != _NONE:
                waits[wait] = waits.get(wait, 0) + number
                if run != _NONE:
                    runs[run] = runs.get(run, 0) + number
        self.pairs.clear()

    def ranges(self) -> Iterable[tuple[int, _Range | None, _Range | None, _Range | None]]:
        """
        Yield how long calls took.

        Yields:
            The number of calls, and the ranges of their total, wait and run time. None: the calls did not wait or run,
            the time is unknown, or another item has it for the same calls.
        """
        for bucket, number in self.pairs.items():
            yield (number, *_of_pair(bucket))
        waits, runs, totals = self.folded
        for total, number in totals.items():
            yield number, _of_sum(total), None, None
        for wait, number in waits.items():
            yield number, None, (_UPPER_S[wait], _LOWER_S[wait]), None
        for run, number in runs.items():
            yield number, None, None, (_UPPER_S[run], _LOWER_S[run])

    def outcomes(self) -> list[int]:
        """Return the number of calls by outcome."""
        outcomes = [int(number) for number in self.sums[_OUTCOME:]]
        outcomes[Outcome.OK] = self.calls() - sum(outcomes[Outcome.OK + 1 :])
        return outcomes

    def seconds(self) -> float:
        """Return the total time from call to reply, over all calls."""
        return self.sums[_WAIT] + self.sums[_RUN] + self.sums[_GIVEN_UP]

    def seconds_waited(self) -> float:
        """Return the total time in the queue, over all calls whose wait is known."""
        return self.sums[_WAIT]


@cache  # few methods need it
def _sum_edges_s() -> Sequence[float]:
    """
    Return the upper edges for sums of a folded wait and run. They make a sum at most 2 % longer.

    They include the edges of reports and scrapes, because the count of such a bucket must never fall.
    """
    from sage_plugins.metrics import HISTOGRAM_EDGES_S  # uses attrs, and only a status needs it

    return sorted({*(1e-6 * 1.02**power for power in range(1090)), *HISTOGRAM_EDGES_S})


@cache
def _of_pair(bucket: int) -> tuple[_Range, _Range | None, _Range | None]:
    wait, run = divmod(bucket, _WIDTH)
    return (
        (_UPPER_S[wait] + _UPPER_S[run], _LOWER_S[wait] + _LOWER_S[run]),
        None if wait == _NONE else (_UPPER_S[wait], _LOWER_S[wait]),
        None if _NONE in {wait, run} else (_UPPER_S[run], _LOWER_S[run]),
    )


def _of_sum(bucket: int) -> _Range:
    """Return the range of a bucket of sums. Each part of a sum is at most 20 % or 1 us below its own edge."""
    edges = _sum_edges_s()
    if bucket == len(edges):
        return inf, EDGES_S[-1]
    below = edges[bucket - 1] if bucket else 0.0
    return edges[bucket], max(0.0, below - 2 * _SHORTEST_S) / 1.2


def _sum(parts: Sequence[Cells]) -> Cells:
    if len(parts) == 1:  # nobody changes the cells of a snapshot
        return parts[0]
    total = parts[0].copied()
    for cells in parts[1:]:
        total.add(cells)
    return total


class MetricsRecorder:
    """The counts of one replica, or of the calling side."""

    def __init__(self, who: ReplicaInfo, methods: tuple[str, ...], usage: ProcessUsage | None) -> None:
        """Start with zero counts. *usage* is None for the calling side."""
        self._methods = methods
        self._who = who
        self._usage = usage
        self._lock = threading.RLock()  # guards the next three; re-entrant, because a signal handler may look
        self._live: dict[weakref.ref[Callable[[int, int, float, float], None]], list[Cells]] = {}
        self._past = [Cells.empty() for _ in methods]  # of workers that have ended
        self._ended: list[weakref.ref[Callable[[int, int, float, float], None]]] = []
        self._counted: tuple[int, dict[str, Cells]] = 0, {}  # number of calls, and sums by method; guarded by _lock

    def writer(self) -> Callable[[int, int, float, float], None]:
        """Return a function that counts one call, into its own cells. Its counts remain after it is dropped."""
        cells = [self._of_worker() for _ in self._methods]
        record = MethodType(_record_caller_side if self._who.replica is None else _record_replica_side, cells)
        with self._lock:
            self._collect()
            # A function may be dropped at any moment, so its callback only appends to a list.
            self._live[weakref.ref(record, self._ended.append)] = cells
        return record

    def _of_worker(self) -> Cells:
        """Return the cells of one worker for one method. A fold takes the lock, so that readers see no step of it."""
        pairs = _Pairs()
        cells = Cells.empty(pairs)

        def fold() -> None:
            with self._lock:
                cells.fold()

        pairs.fold = fold
        return cells

    def _collect(self) -> None:
        """Add up the counts of ended workers, so that a pool whose threads come and go needs no more memory."""
        while self._ended:
            for past, cells in zip(self._past, self._live.pop(self._ended.pop()), strict=True):
                past.add(cells)

    def snapshot(self) -> Mapping[str, Any]:
        """Return the counts by method over all workers, and the resource use of the replica's process."""
        who = self._who
        process = None if self._usage is None else {"node": who.node, "replica": who.replica, **self._usage.read()}
        return {"methods": self._total(), "process": process}

    def counts(self) -> Mapping[str, int]:
        """Return over all methods how many calls ended, and how many of them failed."""
        total = self._total().values()
        return {
            "request_count": sum(cells.calls() for cells in total),
            "error_count": int(sum(sum(cells.sums[_OUTCOME + Outcome.OK + 1 :]) for cells in total)),
        }

    def _total(self) -> dict[str, Cells]:
        """Return the counts of each method that was called. The same object is returned until another call ends."""
        with self._lock:
            self._collect()
            parts = (self._past, *self._live.values())
            calls = sum([each.calls() for cells in parts for each in cells])
            if calls != self._counted[0]:
                total: dict[str, Cells] = {}
                for cells in parts:
                    for name, each in zip(self._methods, cells, strict=True):
                        if not each.calls():
                            continue
                        if name in total:
                            total[name].add(each)
                        else:
                            total[name] = each.copied()
                self._counted = calls, total
            return self._counted[1]

    def close(self) -> None:
        """Do nothing: counts stay readable."""


def _record_replica_side(cells: Sequence[Cells], method: int, outcome: int, wait_s: float, run_s: float) -> None:
    pairs, sums, _ = cells[method]
    if outcome:
        sums[_OUTCOME + outcome] += 1
    sums[_WAIT] += wait_s
    sums[_RUN] += run_s
    # Calls in the first bucket need no search, and many calls are that short.
    bucket = 0 if run_s <= _SHORTEST_S else bisect_left(EDGES_S, run_s)
    if wait_s > _SHORTEST_S:
        bucket += bisect_left(EDGES_S, wait_s) * _WIDTH
    pairs[bucket] += 1


def _record_caller_side(cells: Sequence[Cells], method: int, outcome: int, wait_s: float, run_s: float) -> None:
    """
    Count a call that was given up.

    A call that never started has only waited. For a call that had started, the calling side does not know how long it
    waited and ran, so only its time from call to reply counts.
    """
    pairs, sums, _ = cells[method]
    sums[_OUTCOME + outcome] += 1
    if run_s:
        sums[_GIVEN_UP] += run_s
        pairs[_NONE * _WIDTH + bisect_left(EDGES_S, run_s)] += 1
    else:
        sums[_WAIT] += wait_s
        pairs[bisect_left(EDGES_S, wait_s) * _WIDTH + _NONE] += 1


class Metrics(QuietMonitor):
    """Counts the calls of a service by method and outcome, with histograms of their time in the queue and running."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # re-entrant: a signal handler may stop the service
        self._refused: defaultdict[tuple[int, str], int] = defaultdict(int)  # by method and reason; guarded by _lock
        self._methods: tuple[str, ...] = ()
        self._shown: tuple[list[Mapping[str, Cells]], list[Family]] = [], []  # source and result of the last `calls_of`

    def recorder(self, who: ReplicaInfo, methods: tuple[str, ...]) -> MetricsRecorder:
        """Return the recorder for a replica, or for the calling side, which counts timeouts and cancellations."""
        self._methods = methods
        return MetricsRecorder(who, methods, None if who.replica is None else ProcessUsage.of_this_process())

    def refused(self, method: int, reason: str) -> None:
        """Count a refused call."""
        with self._lock:
            self._refused[method, reason] += 1

    def merge(self, snapshots: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return one snapshot with the sum of all counts, without a process."""
        parts: dict[str, list[Cells]] = {}
        for snapshot in snapshots:
            for name, cells in snapshot["methods"].items():
                parts.setdefault(name, []).append(cells)
        return {"methods": {name: _sum(found) for name, found in parts.items()}, "process": None}

    def summary(self, snapshots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return the fields of `ServiceMetrics` that this monitor measures."""
        methods: Mapping[str, Cells] = self.merge(snapshots)["methods"]
        refused: defaultdict[str, dict[str, int]] = defaultdict(dict)
        refused_in_all: defaultdict[str, int] = defaultdict(int)
        with self._lock:
            for (index, reason), number in self._refused.items():
                refused[self._methods[index]][reason] = number
                refused_in_all[reason] += number
        service = Cells.empty()
        for cells in methods.values():
            service.add(cells)
        processes = _processes(snapshots)
        from sage_plugins.metrics import MethodMetrics  # as in `_sum_edges_s`

        return {
            **_measured(service, refused_in_all),
            "methods": {
                name: MethodMetrics(**_measured(methods.get(name, Cells.empty()), refused[name]))
                for name in self._methods
            },
            "cpu_usage": sum(process["cpu_percent"] for process in processes),
            "memory_usage": sum(process["memory_bytes"] for process in processes),
        }

    def families(self, snapshots: Sequence[Mapping[str, Any]]) -> Iterable[Family]:
        """Return calls by method and outcome, their durations, refused calls, and the resource use of the processes."""
        from sage_deploy_monitors.exporting import calls_of, others_of  # imported here: few processes are scraped

        with self._lock:
            refused = dict(self._refused)
        parts = [snapshot["methods"] for snapshot in snapshots]
        before, calls = self._shown
        if not before or len(parts) != len(before) or not all(map(is_, parts, before)):
            calls = calls_of(self.merge(snapshots)["methods"])
            self._shown = parts, calls
        return [*calls, *others_of(refused, _processes(snapshots))]


def _processes(snapshots: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the resource use of each process once: replicas in one process report the same."""
    found: dict[tuple[Any, int], Mapping[str, Any]] = {}
    for snapshot in snapshots:
        process = snapshot["process"]
        if process is not None:
            found.setdefault((process["node"], process["pid"]), process)
    return list(found.values())


def _measured(cells: Cells, refused: Mapping[str, int]) -> dict[str, Any]:
    """Return the fields of `MethodMetrics`. *refused* has the refused calls by reason."""
    sums = cells.sums
    by_wait: dict[_Range, int] = defaultdict(int)
    by_run: dict[_Range, int] = defaultdict(int)
    by_total: dict[_Range, int] = defaultdict(int)
    for number, *ranges in cells.ranges():
        for histogram, found in zip((by_total, by_wait, by_run), ranges, strict=True):
            if found is not None:
                histogram[found] += number
    count = cells.calls()
    outcomes, total_s = cells.outcomes(), cells.seconds()
    errors = count - outcomes[Outcome.OK]
    return {
        "request_count": count,
        "error_count": errors,
        "rejected_count": sum(refused.values()),
        "rejections": dict(refused),
        "outcomes": {name: number for name, number in zip(Outcome.NAMES, outcomes, strict=True) if number},
        "avg_response_time": _mean(total_s, count),
        "avg_queue_time": _mean(sums[_WAIT], sum(by_wait.values())),
        "avg_run_time": _mean(sums[_RUN], sum(by_run.values())),
        **_percentiles("", by_total, total_s),
        **_percentiles("queue_", by_wait, sums[_WAIT]),
        **_percentiles("run_", by_run, sums[_RUN]),
        "histograms": {
            "duration": _histogram(by_total, total_s),
            "queue": _histogram(by_wait, sums[_WAIT]),
            "run": _histogram(by_run, sums[_RUN]),
        }
        if count
        else {},
    }


def _histogram(ranges: Mapping[_Range, int], seconds: float) -> dict[str, Any]:
    """Return one entry of `MethodMetrics.histograms`. *seconds* is the sum of all durations."""
    from sage_plugins.metrics import HISTOGRAM_EDGES_S  # as in `_sum_edges_s`

    buckets: dict[float, int] = defaultdict(int)
    for (upper, _), number in sorted(ranges.items()):
        at = bisect_left(HISTOGRAM_EDGES_S, upper)
        buckets[HISTOGRAM_EDGES_S[at] if at < len(HISTOGRAM_EDGES_S) else inf] += number
    # Workers are added in changing order, which changes the last digits. A sum must never fall, because readers of
    # counters take that for a restart.
    return {"sum": round(seconds, 6), "buckets": dict(buckets)}


def _mean(seconds: float, number: int) -> float:
    return seconds / number if number else 0.0


def _percentiles(prefix: str, histogram: Mapping[_Range, int], seconds: float) -> dict[str, float]:
    """
    Return the 50th, 95th and 99th percentile: the upper edge of the range that reaches it. 0 without durations.

    The longest duration is not recorded, because that would slow down every call. But it is at least the mean, the
    lower edge of each range, and the mean of the highest range that the sum implies. No percentile is above all these.

    Args:
        prefix: Prefix of the names.
        histogram: Number of durations in each range.
        seconds: Sum of all durations.
    """
    total = sum(histogram.values())
    found = {f"{prefix}p{share}": 0.0 for share in (50, 95, 99)}
    if not total:
        return found
    ranges = sorted(histogram)
    others = sum(histogram[each] * each[0] for each in ranges[:-1])
    left = (seconds - others) / histogram[ranges[-1]]
    longest = max(seconds / total, left, *(lower for _, lower in ranges))
    for share in (50, 95, 99):
        reached = 0
        for upper, lower in ranges:
            reached += histogram[upper, lower]
            if reached * 100 >= total * share:
                found[f"{prefix}p{share}"] = min(upper, longest)
                break
    return found
