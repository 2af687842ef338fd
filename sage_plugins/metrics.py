"""The metrics in the result of `get_service_status`. A separate module, because only a status needs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

__all__ = ["HISTOGRAM_EDGES_S", "MethodMetrics", "ServiceMetrics"]

#: Upper edges of the buckets of `MethodMetrics.histograms`, in seconds. One more bucket, `inf`, counts longer calls.
HISTOGRAM_EDGES_S: Final = (0.0005, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)


@attrs.frozen(kw_only=True)
class MethodMetrics:
    """
    The metrics of one method since the service started, over all replicas.

    Durations are in seconds. A call that was given up while it ran is in none of the queue and run values, because its
    times are not known. A call that was given up in the queue is only in the queue values.

    Percentiles are 0 if there were no calls. They are read from a histogram: at most 22 % too high or too low, and
    never outside the measured range.

    Attributes:
        request_count: Accepted calls that have ended. Each is counted once, before its caller wakes.
        error_count: Calls among these that ended without a result.
        rejected_count: Calls that were not accepted.
        rejections: The same by reason: `overloaded`, `stopped`, `no_replica` or `circuit_open`.
        outcomes: Number of ended calls by outcome.
        avg_response_time: Mean time from call to answer, queue included.
        p50, p95, p99: Percentiles of the time from call to answer.
        avg_queue_time: Mean time in the queue.
        queue_p50, queue_p95, queue_p99: Percentiles of the time in the queue.
        avg_run_time: Mean time from start to end of the method.
        run_p50, run_p95, run_p99: Percentiles of the time from start to end of the method.
        histograms: The distributions: `duration` (call to answer), `queue` and `run`. Each has the `sum` in seconds and
            `buckets`, the number of calls by upper edge. The edges are `HISTOGRAM_EDGES_S`; empty buckets are left out.
            A bucket has no call that took longer than its edge. A call that took at least 83 % of the edge may be in
            the next bucket. Empty if there were no calls.
    """

    request_count: int = 0
    error_count: int = 0
    rejected_count: int = 0
    rejections: Mapping[str, int] = attrs.field(factory=dict)
    outcomes: Mapping[str, int] = attrs.field(factory=dict)
    avg_response_time: float = 0.0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    avg_queue_time: float = 0.0
    queue_p50: float = 0.0
    queue_p95: float = 0.0
    queue_p99: float = 0.0
    avg_run_time: float = 0.0
    run_p50: float = 0.0
    run_p95: float = 0.0
    run_p99: float = 0.0
    histograms: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class ServiceMetrics(MethodMetrics):
    """
    The metrics of a service since it started, over all methods and replicas; see also `MethodMetrics`.

    Attributes:
        service_name: Its name.
        active_threads: Threads of the replicas now.
        queue_size: Calls that wait now.
        abandoned_count: Calls that hold a slot now although their callers have given up.
        cpu_usage: CPU use of the replicas' processes, in percent of one core; above 100 if several cores are busy. On
            target `local`, this process with everything in it. Measured since a reading at least 1 s ago, or since the
            first service of the process started. 0 if not measured.
        memory_usage: Resident memory of these processes in bytes; 0 if not measured.
        methods: Metrics of each method, by name; empty if not measured.
    """

    service_name: str
    active_threads: int = 0
    queue_size: int = 0
    abandoned_count: int = 0
    cpu_usage: float = 0.0
    memory_usage: int = 0
    methods: Mapping[str, MethodMetrics] = attrs.field(factory=dict)
