"""How many replicas a service should have."""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["Autoscaler", "Load"]


class Load(NamedTuple):
    """
    What a service has to do at one moment, and what its configuration aims at.

    Attributes:
        time_s: Seconds on a monotonic clock.
        replicas: How many replicas the service should have now, those included that are starting.
        ready: How many take calls.
        slots: Calls at once that these can run.
        ongoing: Calls that run.
        queued: Calls that wait, those included whose callers wait for room in the queue.
        oldest_wait_s: How long the first of them has waited.
        mean_calls: Calls that run or wait, averaged over `autoscale.look_back`.
        mean_wait_s: `oldest_wait_s`, averaged in the same way.
        target_ongoing_requests: Calls that run or wait in each replica, as `autoscale` aims at.
        target_queue_wait: Mean wait in the queue, as `autoscale` aims at; None if it does not.
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
    """Decides for one service; asked by one thread at a time. It may keep what it was told before."""

    def decide(self, load: Load) -> float:
        """
        How many replicas the service should have for *load*; a fraction is rounded up.

        The core keeps the answer between the service's `autoscale.min` and `autoscale.max`, waits for the delays, and
        ignores deviations within the tolerance. So this needs none of that.
        """
