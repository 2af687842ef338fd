"""The event log of a service: its latest decisions with their reasons."""

from __future__ import annotations

import threading
from collections import deque
from time import time as wall_clock
from typing import TYPE_CHECKING, Any, NamedTuple

from sage_plugins.interfaces import QuietMonitor
from sage_plugins.interfaces.families import Family

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sage_deploy_monitors.options import EventsOptions
    from sage_plugins.values import Event

__all__ = ["Events", "Recorded"]


class Recorded(NamedTuple):
    """
    An event in the log.

    Attributes:
        number: Position among all events of the service, from 1. A missing number means a dropped event.
        time: When the event was told, in seconds since the epoch (wall clock).
        kind: What happened, such as `"replica_ready"`.
        reason: Why, for people.
        replica: The replica's ID, or None if the event is about the service.
    """

    number: int
    time: float
    kind: str
    reason: str
    replica: str | None


class Events(QuietMonitor):
    """
    Keeps the latest events of one service in a ring of fixed size, and counts refused calls.

    A refused call is not an event: thousands a second would push out all other events.
    """

    def __init__(self, options: EventsOptions) -> None:
        # Re-entrant, because a signal handler may stop the service. It is held only briefly, so nobody waits long.
        self._lock = threading.RLock()
        self._ring: deque[Recorded] = deque(maxlen=options.size)  # guarded by _lock, as the next three
        self._told = 0
        self._counts: dict[str, int] = {}
        self._refused: dict[str, int] = {}

    def refused(self, _method: int, reason: str) -> None:
        """Count a refused call by reason."""
        with self._lock:
            self._refused[reason] = self._refused.get(reason, 0) + 1

    def event(self, event: Event) -> None:
        """Keep the event. Drop the oldest if the ring is full."""
        with self._lock:
            self._told += 1
            self._counts[event.kind] = self._counts.get(event.kind, 0) + 1
            self._ring.append(Recorded(self._told, wall_clock(), event.kind, event.reason, event.replica))

    def summary(self, snapshots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:  # noqa: ARG002 - as in Monitor
        """
        Return the event log.

        Returns:
            `latest`: the kept events, oldest first, each as a dictionary with the fields of `Recorded`.
            `dropped`: number of older events that were dropped.
            `counts`: events by kind, including dropped ones.
            `refused`: refused calls by reason.
        """
        with self._lock:
            kept, told, counts, refused = tuple(self._ring), self._told, dict(self._counts), dict(self._refused)
        return {
            "latest": tuple(recorded._asdict() for recorded in kept),
            "dropped": told - len(kept),
            "counts": counts,
            "refused": refused,
        }

    def families(self, snapshots: Sequence[Mapping[str, Any]]) -> tuple[Family, ...]:  # noqa: ARG002 - as in Monitor
        """Return the number of events by kind."""
        with self._lock:
            values = {(kind,): number for kind, number in self._counts.items()}
        return (Family("sage_events_total", "counter", "Events, such as replica_failed.", ("kind",), values),)
