"""The interfaces of monitors: their two roles, their recorders, and the view of a service that they get."""

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
    """
    Counts the calls of one replica, in the replica's process.

    On the calling side, one more recorder counts the calls that callers give up there.
    """

    def writer(self) -> Callable[[int, int, float, float], None]:
        """
        Return a function `record(method, outcome, wait_s, run_s)` for one worker.

        It runs in one thread at a time, before the caller wakes, so it must be quick.

        On the calling side, it gets the calls that were given up. If the call had not started, *wait_s* is the time
        that it waited. If it had, *run_s* is the whole time since it was made, its waiting included.
        """

    def snapshot(self) -> Mapping[str, Any]:
        """
        Return the counts, picklable; may be off by one call.

        A signal handler may call it while the same thread records, so use no lock, or a reentrant one.
        """

    def close(self) -> None:
        """
        Release sockets, files and threads: the replica has stopped, or on the calling side the service.

        Idempotent. The counts stay readable. Not called in a killed process.
        """


@runtime_checkable
class CallCounter(Protocol):
    """
    The optional member of the recorder of the monitor `metrics`, in the replica's process.
    """

    def counts(self) -> Mapping[str, int]:
        """
        Return the numbers of calls so far, for `ctx.statistics()`.

        `request_count`: calls that ended. `error_count`: those of them without a result.
        """


@runtime_checkable
class CallSurrounder(Protocol):
    """
    The optional member of a recorder in the replica's process that wraps each run of a method, as for traces.
    """

    def around(self, call: Call, /) -> AbstractContextManager[object]:
        """
        Return a context manager that is entered around the method, in the thread or task that runs it.

        It sees what the method raises; an exception of its own ends the call. It surrounds a whole generator. For a
        batch, this is called once, with the call that has the most time left.
        """


class RecorderFactory(Protocol):
    """The role of a monitor in each replica's process, which calls `recorder` once and keeps only the recorder."""

    def recorder(self, who: ReplicaInfo, methods: tuple[str, ...], /) -> Recorder | None:
        """Return a recorder for a replica or for the calling side; None to count no calls."""


class WatchedReplica(Protocol):
    """A replica as monitors see it. Its numbers of calls may be off by one."""

    @property
    def id(self) -> str:
        """ID, such as `"kv#0"`."""

    @property
    def state(self) -> ReplicaState:
        """Its state. Only a `ready`, `unready` or `unhealthy` replica can be checked."""

    @property
    def node(self) -> str | None:
        """Name of the node; None for this process, or before the replica is placed."""

    @property
    def slots(self) -> int:
        """Maximum number of calls at once."""

    @property
    def inflight(self) -> int:
        """Calls that hold a slot now."""

    @property
    def abandoned(self) -> int:
        """Slots held by calls that their callers have given up."""

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:
        """As `Replica.control`. Use a thread of your own: if the replica hangs, this may block forever."""

    def mark(self, state: ReplicaState, reason: str) -> None:
        """
        Set the replica's state to `unhealthy`, `unready`, or `ready` again; *reason* says why.

        A replica that is not ready gets no new calls while another one is ready; its running calls go on. Does nothing
        for a replica that starts or leaves. Safe from any thread; do not hold a lock that `Monitor.event` takes.
        """


class WatchedService(Protocol):
    """A service as monitors see it. Safe from any thread."""

    @property
    def name(self) -> str:
        """Name of the service."""

    @property
    def config(self) -> Any:
        """Its `ServiceDeploymentConfig`."""

    @property
    def clock(self) -> Clock:
        """Its clock, for timers and timeouts."""

    @property
    def hooks(self) -> frozenset[str]:
        """Names of the lifecycle hooks of its class, such as `"check_health"`."""

    @property
    def environment(self) -> str | None:
        """Name of its environment; None for a task outside any environment."""

    @property
    def queued(self) -> int:
        """Accepted calls that wait for a slot; may be off by one."""

    def snapshots(self) -> Sequence[Mapping[str, Any]]:
        """
        Return the snapshots of this monitor's recorders, for all replicas and for the calling side.

        A `SnapshotMerger` also gets those of replicas that have left. Asks replicas in other processes, for at most 1 s
        in all. Do not call this from `Monitor.event`.
        """

    def replicas(self) -> Sequence[WatchedReplica]:
        """Return the present replicas; the same object for a replica as long as it lives."""

    def on_given_up(self, look: Callable[[], None]) -> None:
        """
        Register a function to call each time a caller gives up a call, which may still run.

        Called from any thread; must not block.
        """


class Monitor(RecorderFactory, Protocol):
    """
    The role of a monitor on the calling side: it learns what happens to a service, and adds up the counts.

    Here `recorder` is called once, for the calls that callers give up. `MetricsExporter`, `ServiceWatcher` and
    `SnapshotMerger` add optional members. Each replica's process has a `RecorderFactory`: another object, which may be
    of the same class.
    """

    def refused(self, method: int, reason: str, /) -> None:
        """
        Learn that the service did not accept a call. Called from any thread.

        *reason* is `"overloaded"`, `"stopped"`, `"no_replica"` or `"circuit_open"`.
        """

    def event(self, event: Event) -> None:
        """Learn of a decision. Called from any thread; must not block."""

    def summary(self, snapshots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return what `get_service_status` shows, merged from the recorders' snapshots."""

    def close(self) -> None:
        """Release what the monitor holds: the service has stopped. Idempotent."""


@runtime_checkable
class ServiceWatcher(Protocol):
    """
    The optional member of a monitor that watches the service itself.

    The registration declares `watches_service`.
    """

    def attach(self, service: WatchedService) -> None:
        """Begin to watch *service*. Called once, before the service starts."""


@runtime_checkable
class SnapshotMerger(Protocol):
    """
    The optional member of a monitor that keeps the counts of replicas that leave; without it, they are lost.

    The registration declares `merges_counts`.
    """

    def merge(self, snapshots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Combine *snapshots*, also combined ones, into one. Called from any thread."""


@runtime_checkable
class MetricsExporter(Protocol):
    """
    The optional member of a monitor that adds metrics to `Operations.metrics`, and so to `/metrics`.

    The registration declares `exports_metrics`.
    """

    def families(self, snapshots: Sequence[Mapping[str, Any]]) -> Iterable[Family]:
        """
        Return the present numbers, from the same *snapshots* as `summary`. Called from any thread.

        A counter must never fall, even when replicas leave. A label must have few values, and none from arguments of
        calls.
        """


class QuietMonitor(Monitor):
    """A base class for monitors. Its members do nothing, so write only those that you need."""

    def recorder(self, who: ReplicaInfo, methods: tuple[str, ...], /) -> Recorder | None:
        """Return None."""

    def refused(self, method: int, reason: str, /) -> None:
        """Do nothing."""

    def event(self, event: Event) -> None:
        """Do nothing."""

    def summary(self, snapshots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:  # noqa: ARG002 - as in Monitor
        """Return an empty mapping."""
        return {}

    def close(self) -> None:
        """Do nothing."""
