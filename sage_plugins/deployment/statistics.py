"""The state of a service by the keys of SAGE's `get_statistics()`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sage_plugins.deployment.task import ServiceTask

__all__ = ["statistics"]


def statistics(task: ServiceTask, status: Mapping[str, Any], active_at: float, *, is_remote: bool) -> dict[str, Any]:
    """
    What `ServiceTask.get_statistics` gives: all of SAGE's keys.

    Counts are those of the monitor `metrics`, over all replicas, and 0 without it. `last_activity_time` is when a call
    ended last, or else when the task was made. The request queue is the service's own, and there are no response queues
    but those that requests bring. `actor_id` and `ray_node_id` are those of the first replica, for services in other
    processes.

    Args:
        task: Of the service.
        status: Its `status()`.
        active_at: When a call ended last, wall clock.
        is_remote: Whether its replicas are in other processes.
    """
    metrics = status["metrics"]
    found = {
        "service_name": task.service_name,
        "service_type": type(task).__name__,
        "is_running": task.is_running,
        "request_count": metrics.request_count,
        "error_count": metrics.error_count,
        "last_activity_time": active_at,
        "service_class": task.service_factory.service_class.__name__,
        "has_service_context": True,
        "request_queue_available": task.is_running,
        "request_queue_id": task.service_name,
        "request_queue_type": "service",
        "response_queues_count": 0,
        "response_queue_names": [],
    }
    if is_remote:
        first = next(iter(status["replicas"]), {"id": None, "node": None})
        found |= {"actor_id": first["id"], "ray_node_id": first["node"]}
    return found
