"""The interface of autoscalers, and the load that they get."""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["Autoscaler", "Load"]


class Load(NamedTuple):
    """
    The load of a service at one moment, and the targets that its configuration sets.

    Attributes:
        time_s: Seconds on a monotonic clock.
        replicas: Replicas that the service should have now, including starting ones.
        ready: Replicas that take calls.
        slots: Calls that the ready replicas can run at once.
        ongoing: Calls that run.
        queued: Calls that wait, including those whose callers wait for room in the queue.
        oldest_wait_s: Seconds that the oldest of them has waited.
        mean_calls: Calls that run or wait, averaged over `autoscale.look_back`.
        mean_wait_s: `oldest_wait_s`, averaged over `autoscale.look_back`.
        target_ongoing_requests: From `autoscale`: target for the calls that run or wait, per replica.
        target_queue_wait: From `autoscale`: target for the mean wait in the queue, in seconds; None if not set.
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
    """Decides how many replicas one service has. One thread at a time calls it. It may remember earlier loads."""

    def decide(self, load: Load) -> float:
        """
        Return how many replicas the service needs for *load*.

        The core rounds a fraction up, keeps the answer between `autoscale.min` and `autoscale.max`, applies the delays,
        and ignores changes within the tolerance.
        """
