"""The interface of autoscalers, and the load that they get."""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["Autoscaler", "Load"]


class Load(NamedTuple):
    """
    A service's load at one moment, and the targets from `autoscale`.

    Attributes:
        time_s: Seconds on a monotonic clock.
        replicas: Wanted replicas now, including starting ones.
        ready: Replicas that take calls.
        slots: Calls that ready replicas can run at once.
        ongoing: Running calls.
        queued: Waiting calls, including those that wait for room in the queue.
        oldest_wait_s: Seconds that the oldest has waited.
        mean_calls: Running and waiting calls, averaged over `autoscale.look_back`.
        mean_wait_s: `oldest_wait_s`, averaged over `autoscale.look_back`.
        target_ongoing_requests: Target for the running and waiting calls per replica.
        target_queue_wait: Target for the mean wait in the queue, in seconds; None if not set.
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
    """Decides how many replicas one service has. Called by one thread at a time; may remember earlier loads."""

    def decide(self, load: Load) -> float:
        """
        Return how many replicas *load* needs.

        The core rounds up, keeps the answer between `autoscale.min` and `autoscale.max`, applies the delays, and
        ignores changes within the tolerance.
        """
