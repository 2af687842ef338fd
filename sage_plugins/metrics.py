"""What `get_service_status` reports as measured; apart from the other values, because only a status needs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

__all__ = ["HISTOGRAM_EDGES_S", "MethodMetrics", "ServiceMetrics"]

#: Upper edges in seconds of the buckets of `MethodMetrics.histograms`; one more bucket, `inf`, is for longer calls.
HISTOGRAM_EDGES_S: Final = (0.0005, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)


@attrs.frozen(kw_only=True)
class MethodMetrics:
    """
    What was measured of the calls of one method since the service started, over all replicas.

    Durations are in seconds. The mean and the percentiles of the queue are over the calls of which it is known how long
    they waited, those of the run over the calls that ended where they ran: a call that its caller gave up while it ran
    is in neither, one that was given up in the queue is in the first. Percentiles are 0 if there were no calls.
    Else they are read from a histogram: at most 22 % too high or too low, and never outside of what was measured.

    Attributes:
        request_count: Accepted calls that have ended, each once; counted before its caller is released.
        error_count: Those of them that did not end with a result.
        rejected_count: Calls that were not accepted.
        rejections: Number of calls that were not accepted, by reason: `overloaded`, `stopped` or `no_replica`.
        outcomes: Number of ended calls by outcome.
        avg_response_time: Mean time from call to answer, queue included.
        p50, p95, p99: Time from call to answer within which that share of the calls ended.
        avg_queue_time: Mean time in the queue.
        queue_p50, queue_p95, queue_p99: Time in the queue within which that share of the calls left it.
        avg_run_time: Mean time from start to end of the method.
        run_p50, run_p95, run_p99: Time from start to end of the method, for that share of the calls.
        histograms: The distributions behind the means: `duration` (call to answer), `queue` and `run`, each with the
            `sum` in seconds and `buckets`, the number of calls by upper edge. The edges are `HISTOGRAM_EDGES_S`; empty
            buckets are left out. A bucket has no call that took longer than its edge. A call that took at least 83 % of
            the edge may be in the next one. Empty if there were no calls.
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
    What was measured of a service since it started, over all methods and replicas; see `MethodMetrics` for the rest.

    Attributes:
        service_name: Name of the service.
        active_threads: Threads of the replicas at the moment.
        queue_size: Calls waiting at the moment.
        abandoned_count: Calls given up by their caller that hold a slot at the moment.
        cpu_usage: Per cent of one core used by the processes that hold the replicas, over the time since a reading that
            was made at least a second ago, or since the first service of the process started; on target `local` that is
            this process with all that runs in it, and more than 100 if several cores are busy. 0 if not measured.
        memory_usage: Resident bytes of these processes; 0 if not measured.
        methods: The same of each method, by name; empty if not measured.
    """

    service_name: str
    active_threads: int = 0
    queue_size: int = 0
    abandoned_count: int = 0
    cpu_usage: float = 0.0
    memory_usage: int = 0
    methods: Mapping[str, MethodMetrics] = attrs.field(factory=dict)
