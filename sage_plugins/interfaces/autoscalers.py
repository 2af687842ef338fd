"""How many replicas a service should have."""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["Autoscaler", "Load"]


class Load(NamedTuple):
    """
    What a service has to do at one moment.

    Attributes:
        time_s: Seconds on a monotonic clock.
        replicas: How many replicas the service should have now.
        ready: How many take calls.
        slots: Calls at once that these can run.
        ongoing: Calls that run.
        queued: Calls that wait.
    """

    time_s: float
    replicas: int
    ready: int
    slots: int
    ongoing: int
    queued: int


class Autoscaler(Protocol):
    """Decides for one service; asked by one thread at a time. It may keep what it was told before."""

    def decide(self, load: Load) -> int:
        """
        How many replicas the service should have.

        The core keeps it between the service's `autoscale.min` and `autoscale.max`.
        """
