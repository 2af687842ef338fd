"""What `get_service_status` reports as measured; apart from the other values, because only a status needs it."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

__all__ = ["ServiceMetrics"]


@attrs.frozen
class ServiceMetrics:
    """
    What was measured of a service since it started, over all replicas.

    Attributes:
        service_name: Name of the service.
        request_count: Accepted calls that have ended, each once; counted before its caller is released.
        error_count: Those of them that did not end with a result.
        active_threads: Threads of the replicas at the moment.
        queue_size: Calls waiting at the moment.
        avg_response_time: Mean seconds from call to answer, queue included.
        cpu_usage: Per cent of one core used by this process since the environment was made; 0 if not measured.
        memory_usage: Resident bytes of this process; 0 if not measured.
        p50, p95, p99: Seconds from call to answer within which that share of the calls ended, as the upper edge of a
            histogram's bucket; 0 if there were none.
        avg_queue_time: Mean seconds in the queue.
        rejected_count: Calls that were not accepted.
        abandoned_count: Calls given up by their caller that hold a slot at the moment.
        outcomes: Number of ended calls by outcome.
    """

    service_name: str
    request_count: int = 0
    error_count: int = 0
    active_threads: int = 0
    queue_size: int = 0
    avg_response_time: float = 0.0
    cpu_usage: float = 0.0
    memory_usage: int = 0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    avg_queue_time: float = 0.0
    rejected_count: int = 0
    abandoned_count: int = 0
    outcomes: Mapping[str, int] = attrs.field(factory=dict)
