"""
Counts and durations of calls, for the price of a few additions.

Each worker has cells of its own, so no lock is taken and no count is lost; a snapshot adds them up.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_plugins.values import Event, ReplicaInfo

__all__ = ["EDGES_S", "Metrics", "MetricsRecorder"]

#: Upper edges of the histogram's buckets in seconds: from 1 us, each a fifth above the one before, to some 1,000 s. A
#: percentile read from them is therefore at most 20 % too high.
EDGES_S: Final[tuple[float, ...]] = tuple(1e-6 * 1.2**power for power in range(115))

# A cell is one list: the histogram's buckets, then the calls by outcome, then the seconds in the queue and in the
# method.
_OUTCOME: Final = len(EDGES_S) + 1
_WAIT: Final = _OUTCOME + len(Outcome.NAMES)
_RUN: Final = _WAIT + 1
_EMPTY: Final[tuple[float, ...]] = (0,) * _WAIT + (0.0, 0.0)


class MetricsRecorder:
    """The counts of one replica, or of the calling side."""

    def __init__(self, methods: tuple[str, ...]) -> None:
        self._methods = methods
        self._cells: list[list[list[float]]] = []  # by writer, then by method; only ever grows

    def writer(self) -> Callable[[int, int, float, float], None]:
        """A function that counts one call, into cells of its own."""
        cells = [list(_EMPTY) for _ in self._methods]
        self._cells.append(cells)
        edges, bisect, first_outcome, wait, run = EDGES_S, bisect_left, _OUTCOME, _WAIT, _RUN

        def record(method: int, outcome: int, wait_s: float, run_s: float) -> None:
            cell = cells[method]
            if outcome:  # the good ones are what the others leave of the histogram's sum
                cell[first_outcome + outcome] += 1
            cell[wait] += wait_s
            cell[run] += run_s
            cell[bisect(edges, wait_s + run_s)] += 1

        return record

    def snapshot(self) -> Mapping[str, Any]:
        """The sums over all workers, by method: the histogram, the outcomes, and the seconds in queue and method."""
        workers = tuple(self._cells)
        return {name: _sum([cells[index] for cells in workers]) for index, name in enumerate(self._methods)}


def _sum(cells: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) for column in zip(*cells, strict=True)] if cells else list(_EMPTY)


class Metrics:
    """Counts the calls of a service by method and outcome, with a histogram of the time from call to answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refused: dict[str, int] = {}  # by reason; guarded by _lock

    def recorder(self, _who: ReplicaInfo, methods: tuple[str, ...]) -> MetricsRecorder:
        """One for each replica and one for the calling side, where time-outs and cancellations are counted."""
        return MetricsRecorder(methods)

    def refused(self, _method: int, reason: str) -> None:
        """Count a call that was not accepted."""
        with self._lock:
            self._refused[reason] = self._refused.get(reason, 0) + 1

    def event(self, event: Event) -> None:
        """Events are not counted."""

    def summary(self, snapshots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """The fields of `ServiceMetrics` that are measured here."""
        total = _sum([cell for snapshot in snapshots for cell in snapshot.values()])
        histogram, outcomes = total[:_OUTCOME], total[_OUTCOME:_WAIT]
        count = int(sum(histogram))
        errors = int(sum(outcomes))
        outcomes[Outcome.OK] = count - errors
        with self._lock:
            rejected = sum(self._refused.values())
        return {
            "request_count": count,
            "error_count": errors,
            "avg_response_time": (total[_WAIT] + total[_RUN]) / count if count else 0.0,
            "avg_queue_time": total[_WAIT] / count if count else 0.0,
            "rejected_count": rejected,
            "outcomes": {name: int(number) for name, number in zip(Outcome.NAMES, outcomes, strict=True) if number},
            **{f"p{share}": _percentile(histogram, share / 100) for share in (50, 95, 99)},
        }

    def close(self) -> None:
        """Counts stay readable."""


def _percentile(histogram: Sequence[float], share: float) -> float:
    """The upper edge of the bucket in which that *share* of the counts is reached; 0 without counts."""
    wanted = sum(histogram) * share
    reached = 0.0
    if not wanted:
        return 0.0
    for edge, number in zip((*EDGES_S, EDGES_S[-1]), histogram, strict=True):
        reached += number
        if reached >= wanted:
            return edge
    return EDGES_S[-1]
