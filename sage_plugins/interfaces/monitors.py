"""Monitors: their two roles, their recorders, and the service as they see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.interfaces.control import ControlOp
    from sage_plugins.interfaces.families import Family
    from sage_plugins.values import (
        Event,
        ReplicaInfo,
        ReplicaState,
    )


__all__ = [
    "CallCounter",
    "CallSurrounder",
    "MetricsExporter",
    "Monitor",
    "QuietMonitor",
    "Recorder",
    "RecorderFactory",
    "ServiceWatcher",
    "SnapshotMerger",
    "WatchedReplica",
    "WatchedService",
]


class Recorder(Protocol):
    """Counts the calls of one replica, in its process; or, on the calling side, the calls that are given up there."""

    def writer(self) -> Callable[[int, int, float, float], None]:
        """
        Return a `record(method, outcome, wait_s, run_s)` for one worker, which never uses it from two threads at once.

        It runs before the caller is released, so it must be quick. On the calling side it gets the calls that were
        given up. If such a call never started, *wait_s* is the time that it waited. If it started, *run_s* is the whole
        time since the call, because only the replica's process knows how much of it was waiting.
        """

    def snapshot(self) -> Mapping[str, Any]:
        """Return the counts: picklable; read without stopping the workers, so they may lag by a call."""

    def close(self) -> None:
        """
        The replica has stopped, or the service on the calling side: release sockets, files and threads.

        Idempotent. The counts stay readable. Not called in a process that is killed.
        """


@runtime_checkable
class CallCounter(Protocol):
    """
    The optional member of a recorder that reports how many calls it has counted.

    The core asks only the recorder of the monitor `metrics`, in the replica's process.
    """

    def counts(self) -> Mapping[str, int]:
        """
        Return the numbers of calls so far, for `ctx.statistics()` of the service.

        Returns:
            `request_count`: calls that ended. `error_count`: those of them that did not end well.
        """


@runtime_checkable
class CallSurrounder(Protocol):
    """
    The optional member of a recorder that surrounds each method, such as one that traces calls.

    Used in the replica's process only. Without such a recorder, methods are called directly.
    """

    def around(self, call: Call, /) -> AbstractContextManager[object]:
        """
        Return a context manager for the method that answers *call*, in the thread or task that runs it.

        It sees what the method raises. What it raises itself ends the call. For a stream it surrounds the whole
        generator. For calls that are answered together it is asked once, with the call that has the most time left.
        """


class RecorderFactory(Protocol):
    """
    The role of a monitor in each replica's process: it makes the recorder there.

    The process calls `recorder` once and nothing else, and keeps only the recorder.
    """

    def recorder(self, who: ReplicaInfo, methods: tuple[str, ...], /) -> Recorder | None:
        """Return a recorder for one replica or for the calling side; None if this monitor counts no calls."""


class WatchedReplica(Protocol):
    """A replica as monitors see it."""

    @property
    def id(self) -> str:
        """Such as `"kv#0"`."""

    @property
    def state(self) -> ReplicaState:
        """Its state; only replicas that are `ready`, `unready` or `unhealthy` can be checked."""

    @property
    def node(self) -> str | None:
        """Name of the node; None for this process, or before the replica is placed."""

    @property
    def slots(self) -> int:
        """Maximum number of calls at once."""

    @property
    def inflight(self) -> int:
        """Calls that hold a slot now; may lag by a call."""

    @property
    def abandoned(self) -> int:
        """Slots held by calls whose callers have given up; may lag by a call."""

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:
        """As `Replica.control`. If the replica hangs, this may wait forever, so call it on a thread of your own."""

    def mark(self, state: ReplicaState, reason: str) -> None:
        """
        Set the replica's state to `unhealthy`, `unready`, or `ready` again, and say why.

        A replica that is not ready gets no new calls while another one is ready; its running calls go on. Does nothing
        for a replica that is starting or leaving. From any thread, but not while holding a lock that `Monitor.event`
        takes.
        """


class WatchedService(Protocol):
    """A service as monitors see it. All members may be used from any thread."""

    @property
    def name(self) -> str:
        """Name of the service."""

    @property
    def config(self) -> Any:
        """Its `ServiceDeploymentConfig`."""

    @property
    def clock(self) -> Clock:
        """For timers and timeouts."""

    @property
    def hooks(self) -> frozenset[str]:
        """Names of the lifecycle hooks that the service's class has, such as `"check_health"`."""

    @property
    def environment(self) -> str | None:
        """Name of the service's environment; None for a task outside any environment."""

    @property
    def queued(self) -> int:
        """Accepted calls that wait for a slot; may lag by a call."""

    def snapshots(self) -> Sequence[Mapping[str, Any]]:
        """
        Return the counts of this monitor's recorders: those of all replicas, and that of the calling side.

        For a `SnapshotMerger` they include the counts of replicas that have left. Asks replicas in other processes, for
        at most a second in all; do not call it from `Monitor.event`.
        """

    def replicas(self) -> Sequence[WatchedReplica]:
        """Return the present replicas. An object stands for the same replica as long as that lives."""

    def on_given_up(self, look: Callable[[], None]) -> None:
        """Have *look* called when a caller has given up a call, which may still run; any thread, must not block."""


class Monitor(RecorderFactory, Protocol):
    """
    The role of a monitor on the calling side: it is told what happens to a service, and adds up the counts.

    A registration's `create(options)` makes one object on the calling side, and one in each replica's process. They may
    be of the same class, because each process uses only the members of its role:

    * On the calling side: all members of `Monitor`, and those of `MetricsExporter`, `ServiceWatcher` and
      `SnapshotMerger` that it has. `recorder` is called once, for calls that are given up there.
    * In each replica's process: `recorder`, see `RecorderFactory`.
    """

    def refused(self, method: int, reason: str, /) -> None:
        """
        A call was not accepted. Any thread.

        *reason* is `"overloaded"`, `"stopped"`, `"no_replica"` or `"circuit_open"`.
        """

    def event(self, event: Event) -> None:
        """The core decided something. Any thread; must not block."""

    def summary(self, snapshots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return what `get_service_status` shows, merged from the recorders' snapshots."""

    def close(self) -> None:
        """The service stopped. Idempotent."""


@runtime_checkable
class ServiceWatcher(Protocol):
    """
    The optional member of a monitor that watches the service itself.

    Used on the calling side only. The monitor's registration declares the capability `watches_service`.
    """

    def attach(self, service: WatchedService) -> None:
        """Begin to watch *service*. Called once, before the service starts."""


@runtime_checkable
class SnapshotMerger(Protocol):
    """
    The optional member of a monitor that keeps the counts of replicas that leave.

    Used on the calling side only. The monitor's registration declares the capability `merges_counts`. Without `merge`,
    the counts of a replica are lost when it leaves.
    """

    def merge(self, snapshots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return one snapshot that combines *snapshots*, which may be combined ones. Any thread."""


@runtime_checkable
class MetricsExporter(Protocol):
    """
    The optional member of a monitor that adds metrics to `Operations.metrics`, and so to `/metrics`.

    Used on the calling side only. The monitor's registration declares the capability `exports_metrics`.
    """

    def families(self, snapshots: Sequence[Mapping[str, Any]]) -> Iterable[Family]:
        """
        Return the present numbers, from the same *snapshots* as `summary`. Any thread.

        A counter never falls, even when replicas leave. Labels have few values, and none from calls' arguments.
        """


class QuietMonitor(Monitor):
    """A base for monitors that use only some members of `Monitor`: the others do nothing."""

    def recorder(self, who: ReplicaInfo, methods: tuple[str, ...], /) -> Recorder | None:
        """Return None: no call is counted."""

    def refused(self, method: int, reason: str, /) -> None:
        """Do nothing."""

    def event(self, event: Event) -> None:
        """Do nothing."""

    def summary(self, snapshots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:  # noqa: ARG002 - as in Monitor
        """Return nothing to show."""
        return {}

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
