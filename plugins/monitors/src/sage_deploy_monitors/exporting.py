"""Turns call counts into metric families. They have no means and percentiles: those are only in a status."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.interfaces.families import Family
from sage_plugins.metrics import HISTOGRAM_EDGES_S
from sage_plugins.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sage_deploy_monitors.metrics import Cells

__all__ = ["calls_of", "others_of"]

_BUCKETS: Final = len(HISTOGRAM_EDGES_S) + 1


def calls_of(methods: Mapping[str, Cells]) -> list[Family]:
    """Return the families for one service's calls. *methods* has the counts of each method."""
    requests: dict[tuple[str, ...], float] = {}
    durations: dict[tuple[str, ...], tuple[float, ...]] = {}
    waits, waited_s = [0] * _BUCKETS, 0.0
    for name, cells in methods.items():
        if not cells.calls():
            continue
        counts = [0] * _BUCKETS
        for number, total, waited, _ in cells.ranges():
            if total is not None:
                counts[bisect_left(HISTOGRAM_EDGES_S, total[0])] += number
            if waited is not None:
                waits[bisect_left(HISTOGRAM_EDGES_S, waited[0])] += number
        waited_s += cells.seconds_waited()
        for outcome, number in zip(Outcome.NAMES, cells.outcomes(), strict=True):
            requests[name, outcome] = number
        durations[name,] = (_rounded(cells.seconds()), *counts)
    return [
        Family("sage_requests_total", "counter", "Accepted calls that have ended.", ("method", "outcome"), requests),
        Family(
            "sage_request_duration_seconds",
            "histogram",
            "Time from call to answer.",
            ("method",),
            durations,
            HISTOGRAM_EDGES_S,
        ),
        Family(
            "sage_queue_wait_seconds",
            "histogram",
            "Time that calls waited.",
            (),
            {(): (_rounded(waited_s), *waits)} if durations else {},
            HISTOGRAM_EDGES_S,
        ),
    ]


def others_of(refused: Mapping[tuple[int, str], int], processes: Sequence[Mapping[str, Any]]) -> list[Family]:
    """
    Return the other families of one service.

    Args:
        refused: Refused calls, by method and reason.
        processes: The processes that hold the replicas, each once.
    """
    rejected = {("no_replica",): 0, ("overloaded",): 0, ("stopped",): 0}
    for (_, reason), number in refused.items():
        rejected[reason,] = rejected.get((reason,), 0) + number
    cores = sum(process["cpu_percent"] for process in processes) / 100
    memory = sum(process["memory_bytes"] for process in processes)
    whole = {(): memory} if processes else {}
    return [
        Family("sage_rejected_total", "counter", "Calls that were not accepted.", ("reason",), rejected),
        Family(
            "sage_process_resident_memory_bytes",
            "gauge",
            "Memory of the processes that hold the service's replicas.",
            (),
            whole,
        ),
        Family(
            "sage_process_cpu_cores",
            "gauge",
            "Processor cores that these processes keep busy.",
            (),
            {(): cores} if processes else {},
        ),
        Family(
            "sage_process_cpu_seconds_total",
            "counter",
            "Processor time of a process that holds replicas, told by the first of them.",
            ("replica",),
            {(process["replica"],): process["cpu_s"] for process in processes},
        ),
    ]


def _rounded(seconds: float) -> float:
    # Workers are added in changing order, which changes the last digits. A sum must never fall, because readers of
    # counters take that for a restart.
    return round(seconds, 6)
