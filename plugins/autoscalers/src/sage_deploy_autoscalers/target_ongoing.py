"""As many replicas as keep the calls of each near a number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sage_plugins.interfaces import Load

__all__ = ["TargetOngoing"]

#: How many times the present replicas a long wait asks for at most: it says that there are too few, not how many.
_MOST_BY_WAIT: Final = 2.0


class TargetOngoing:
    """
    The calls that run or wait, divided by those that each replica should have.

    With a `target_queue_wait` calls are not to queue, so no replica counts for more calls than it runs at once. While
    they wait longer than that all the same, more replicas are wanted, up to twice as many.
    """

    def decide(self, load: Load) -> float:
        """As `Autoscaler.decide`."""
        if load.target_queue_wait is None or not load.ready:
            return load.mean_calls / load.target_ongoing_requests
        by_calls = load.mean_calls / min(load.target_ongoing_requests, load.slots / load.ready)
        if load.mean_wait_s <= load.target_queue_wait:
            return by_calls
        return max(by_calls, load.replicas * min(load.mean_wait_s / load.target_queue_wait, _MOST_BY_WAIT))
