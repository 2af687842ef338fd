"""Computes the number of replicas that keeps the calls of each near a target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sage_plugins.interfaces import Load

__all__ = ["TargetOngoing"]

#: A long wait asks for at most this multiple of the current replicas: it does not tell how many are missing.
_MOST_BY_WAIT: Final = 2.0


class TargetOngoing:
    """
    Divides the running and waiting calls by the target number of calls for each replica.

    With a `target_queue_wait`, calls should not queue. So a replica counts for at most as many calls as it runs at
    once. If calls still wait longer than the target, more replicas are wanted, up to twice as many.
    """

    def decide(self, load: Load) -> float:
        """As `Autoscaler.decide`."""
        if load.target_queue_wait is None or not load.ready:
            return load.mean_calls / load.target_ongoing_requests
        by_calls = load.mean_calls / min(load.target_ongoing_requests, load.slots / load.ready)
        if load.mean_wait_s <= load.target_queue_wait:
            return by_calls
        return max(by_calls, load.replicas * min(load.mean_wait_s / load.target_queue_wait, _MOST_BY_WAIT))
