"""The latest decisions about a service, with their reasons."""

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
    An event as it was kept.

    Attributes:
        number: Position among all events of the service, from 1, without gaps: one that is missing was dropped.
        time: When it was told, in seconds since the epoch (wall clock).
        kind: What happened, such as `"replica_ready"`.
        reason: Why, for a human.
        replica: Replica's id, or None if it is about the service.
    """

    number: int
    time: float
    kind: str
    reason: str
    replica: str | None


class Events(QuietMonitor):
    """
    Keeps the latest events of one service in a ring of fixed size, and counts the calls that were not accepted.

    A refused call is no event of its own: there may be thousands a second, and they would push all else out.
    """

    def __init__(self, options: EventsOptions) -> None:
        # Re-entrant, because a signal handler may stop the service; held for some instructions, so nobody waits.
        self._lock = threading.RLock()
        self._ring: deque[Recorded] = deque(maxlen=options.size)  # guarded by _lock, as the next three
        self._told = 0
        self._counts: dict[str, int] = {}
        self._refused: dict[str, int] = {}

    def refused(self, _method: int, reason: str) -> None:
        """Count a call that was not accepted, by reason."""
        with self._lock:
            self._refused[reason] = self._refused.get(reason, 0) + 1

    def event(self, event: Event) -> None:
        """Keep it, and drop the oldest if there are too many."""
        with self._lock:
            self._told += 1
            self._counts[event.kind] = self._counts.get(event.kind, 0) + 1
            self._ring.append(Recorded(self._told, wall_clock(), event.kind, event.reason, event.replica))

    def summary(self, snapshots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:  # noqa: ARG002 - as in Monitor
        """
        What is known.

        Returns:
            `latest`: the events that are kept, a dictionary each with the fields of `Recorded`, the oldest first;
            `dropped`: how many older ones are not; `counts`: events by kind, dropped ones included; `refused`: calls
            that were not accepted, by reason.
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
        """The events by kind."""
        with self._lock:
            values = {(kind,): number for kind, number in self._counts.items()}
        return (Family("sage_events_total", "counter", "Events, such as replica_failed.", ("kind",), values),)
