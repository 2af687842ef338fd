"""Builds the rows of `/api/v1/services` and of the stream. Each row shows one service."""

from __future__ import annotations

import threading
from math import isnan
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_server.recording.sample import NOTHING, since_start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sage_deploy_server.recording.recorder import Recorder
    from sage_deploy_server.recording.sample import CallCounts, Sample
    from sage_plugins.interfaces.families import Families
    from sage_plugins.interfaces.operations import Operations

__all__ = ["Rows"]

#: Events that report a requested change.
_CHANGES: Final = frozenset({"scaled", "restarted", "reconfigured", "balancer_changed", "balancing_enabled", "adopted"})

#: Events that explain why replicas of a service are not ready. The latest one counts.
_NOT_READY_EVENTS: Final = (
    "replica_failed",
    "replica_unhealthy",
    "replica_unready",
    "replica_draining",
    "replica_starting",
)

#: Events that explain each state of a service.
_REASONS: Final = {
    "degraded": _NOT_READY_EVENTS,
    "unready": _NOT_READY_EVENTS,
    "starting": ("replica_starting",),
    "ready": ("replica_ready", "adopted"),
    "crash_loop": ("crash_loop",),
    "draining": ("replica_draining", "change_requested"),
    "stopped": ("replica_stopped", "replica_left"),
}

#: Maximum number of replicas in a row.
_MAX_STRIPES: Final = 64


class Rows:
    """The row of each service, and its generation. Thread-safe."""

    def __init__(self, operations: Operations, recorder: Recorder) -> None:
        self._operations = operations
        self._recorder = recorder
        self._lock = threading.Lock()  # guards all fields below
        self._seq = 0  # of the last event read
        self._times: dict[tuple[str, str], float] = {}  # of the latest event, by (service, kind)
        self._generations: dict[str, int] = {}  # number of the latest change event, by service
        self._changes_without_event: dict[str, int] = {}  # changes without an event, by service
        self._calls: dict[str, tuple[CallCounts, dict[str, Any]]] = {}  # call fields of the rows, by service

    def read_with_threads(self) -> list[dict[str, Any]]:
        """Return the rows with `threads` added. Asks each replica."""
        metrics = self._operations.metrics()
        return [{**row, "threads": _threads(metrics.get(row["name"], {}))} for row in self.read()]

    def read(self) -> list[dict[str, Any]]:
        """Return a row for each service, and record the services' metrics."""
        services, samples = self._recorder.record()
        self._read_events()
        return [self._row(name, status, samples.get(name, NOTHING)) for name, status in services.items()]

    def generation(self, name: str) -> int:
        """Return a number that grows with each requested change of the service."""
        self._read_events()
        return self._known_generation(name)

    def _known_generation(self, name: str) -> int:
        with self._lock:
            return self._generations.get(name, 0) + self._changes_without_event.get(name, 0)

    def count_change(self, name: str) -> None:
        """Count a change of the service that may have no event."""
        with self._lock:
            self._changes_without_event[name] = self._changes_without_event.get(name, 0) + 1

    def _read_events(self) -> None:
        with self._lock:
            for seq, time_s, event in self._operations.events(self._seq):
                self._seq = seq
                self._times[event.service, event.kind] = time_s
                if event.kind in _CHANGES:
                    self._generations[event.service] = seq

    def _row(self, name: str, status: dict[str, Any], sample: Sample) -> dict[str, Any]:
        health, replicas = status.get("health", {}), status.get("replicas", [])
        rate, error_rate = self._recorder.history.rates(name)
        return {
            "name": name,
            "state": status.get("state"),
            "since": self._since(name, status.get("state")),
            "why": _why(list(health.get("missing", {}).values())) or status.get("error", ""),
            "ready": health.get("ready", 0),
            "replicas": health.get("replicas", 0),
            "wanted": status.get("autoscale", {}).get("wanted", health.get("replicas", 0)),
            "restarts": status.get("replaced", 0),
            **self._calls_of(name, sample.call_counts),
            "rate": rate,
            "error_rate": error_rate,
            "queue": sample.queue,
            "queue_capacity": status.get("queue_capacity"),
            "inflight": sample.inflight,
            "slots": sample.slots,
            "abandoned": sample.abandoned,
            "stripes": [
                [each["id"], each["state"], each.get("slots", 0), each.get("inflight", 0), each.get("abandoned", 0)]
                for each in replicas[:_MAX_STRIPES]
            ],
            "more": max(0, len(replicas) - _MAX_STRIPES),
            "generation": self._known_generation(name),
            "held_by": status.get("held_by"),
        }

    def _calls_of(self, name: str, call_counts: CallCounts) -> dict[str, Any]:
        """Return the call fields of a row. Computes them only if calls have ended since the last time."""
        known, fields = self._calls.get(name, (None, {}))
        if known is not call_counts:
            p50, p95, p99 = (None if isnan(each) else each for each in since_start(call_counts))
            fields = {
                "calls": call_counts.calls,
                "errors": call_counts.errors,
                "rejected": call_counts.rejected,
                "p50": p50,
                "p95": p95,
                "p99": p99,
            }
            self._calls[name] = call_counts, fields
        return fields

    def _since(self, name: str, state: Any) -> float | None:
        times = [self._times[name, kind] for kind in _REASONS.get(state, ()) if (name, kind) in self._times]
        return max(times, default=None)


def _threads(families: Families) -> int:
    family = families.get("sage_threads")
    return 0 if family is None else sum(family.values.values())


def _why(reasons: Sequence[str]) -> str:
    """Return the first of *reasons* and the number of others, because many replicas may have similar reasons."""
    return "; and ".join([*map(str, reasons[:1]), *([f"{len(reasons) - 1} more"] if len(reasons) > 1 else [])])
