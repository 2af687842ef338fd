"""
Counts and durations of calls, for the price of a few additions.

Each thread that records has cells of its own, so no lock is taken and no count is lost; a snapshot adds them up.
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

#: Upper edges of the histogram's buckets in seconds: from 1 us, each a fifth above the one before, to some 1,000 s. A percentile
#: read from them is therefore at most 20 % too high.
EDGES_S: Final[tuple[float, ...]] = tuple(1e-6 * 1.2**power for power in range(115))

_OUTCOMES: Final = len(Outcome.NAMES)
_WAIT, _RUN, _FIRST_BUCKET = _OUTCOMES, _OUTCOMES + 1, _OUTCOMES + 2
_CELL: Final = [0] * _OUTCOMES + [0.0, 0.0] + [0] * (len(EDGES_S) + 1)


class MetricsRecorder:
    """The counts of one replica, or of the calling side."""

    def __init__(self, methods: tuple[str, ...]) -> None:
        self._methods = methods
        self._lock = threading.Lock()
        self._cells: list[list[list[float]]] = []  # by thread, then by method; guarded by _lock
        self.record: Callable[[int, int, float, float], None] = self._compose()

    def _compose(self) -> Callable[[int, int, float, float], None]:
        local = threading.local()
        edges, bisect = EDGES_S, bisect_left

        def record(method: int, outcome: int, wait_s: float, run_s: float) -> None:
            try:
                cell = local.cells[method]
            except AttributeError:
                local.cells = self._new_cells()
                cell = local.cells[method]
            cell[outcome] += 1
            cell[_WAIT] += wait_s
            cell[_RUN] += run_s
            cell[_FIRST_BUCKET + bisect(edges, wait_s + run_s)] += 1

        return record

    def _new_cells(self) -> list[list[float]]:
        cells = [list(_CELL) for _ in self._methods]
        with self._lock:
            self._cells.append(cells)
        return cells

    def snapshot(self) -> Mapping[str, Any]:
        """The sums over all threads, by method: outcomes, seconds in queue and run, and the histogram."""
        with self._lock:
            threads = list(self._cells)
        sums = {}
        for index, name in enumerate(self._methods):
            total = [sum(column) for column in zip(*(cells[index] for cells in threads), strict=True)] or list(_CELL)
            sums[name] = total
        return sums


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
        cells = [cell for snapshot in snapshots for cell in snapshot.values()]
        total = [sum(column) for column in zip(*cells, strict=True)] if cells else list(_CELL)
        outcomes, histogram = total[:_OUTCOMES], total[_FIRST_BUCKET:]
        count = int(sum(outcomes))
        with self._lock:
            rejected = sum(self._refused.values())
        return {
            "request_count": count,
            "error_count": count - int(outcomes[Outcome.OK]),
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
