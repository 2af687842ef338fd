"""The interface of autoscalers, and the load that they get."""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["Autoscaler", "Load"]


class Load(NamedTuple):
    """
    The load of a service at one moment, and the targets that its configuration sets.

    Attributes:
        time_s: Seconds on a monotonic clock.
        replicas: Number of replicas that the service should have now, including those that are starting.
        ready: Number of replicas that take calls.
        slots: Number of calls that the ready replicas can run at once.
        ongoing: Number of calls that run.
        queued: Number of calls that wait, including those whose callers wait for room in the queue.
        oldest_wait_s: How long the oldest waiting call has waited, in seconds.
        mean_calls: Number of calls that run or wait, averaged over `autoscale.look_back`.
        mean_wait_s: `oldest_wait_s`, averaged over `autoscale.look_back`.
        target_ongoing_requests: `autoscale.target_ongoing_requests`: calls that run or wait, for each replica.
        target_queue_wait: `autoscale.target_queue_wait`: mean wait in the queue, in seconds; None if it is not set.
    """

    time_s: float
    replicas: int
    ready: int
    slots: int
    ongoing: int
    queued: int
    oldest_wait_s: float = 0.0
    mean_calls: float = 0.0
    mean_wait_s: float = 0.0
    target_ongoing_requests: float = 2.0
    target_queue_wait: float | None = None


class Autoscaler(Protocol):
    """Decides how many replicas one service has. Only one thread at a time calls it. It may remember earlier loads."""

    def decide(self, load: Load) -> float:
        """
        Return how many replicas the service needs for *load*. The core rounds a fraction up.

        The core also limits the answer to `autoscale.min` and `autoscale.max`, applies the delays, and ignores changes
        within the tolerance. An autoscaler does none of that.
        """
