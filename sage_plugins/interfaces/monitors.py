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
    Counts one replica's calls, in its process.

    Another recorder, on the calling side, counts calls that callers give up.
    """

    def writer(self) -> Callable[[int, int, float, float], None]:
        """
        Return a function `record(method, outcome, wait_s, run_s)` for one worker.

        It runs in one thread at a time, before the caller wakes: be quick.

        On the calling side, it gets given-up calls: *wait_s* is the wait of one that had not started, *run_s* the whole
        time, waiting included, of one that had.
        """

    def snapshot(self) -> Mapping[str, Any]:
        """
        Return the counts, picklable; may be off by one call.

        A signal handler may call it while the same thread records: use no lock, or a reentrant one.
        """

    def close(self) -> None:
        """
        Release everything: the replica, or on the calling side the service, has stopped. Idempotent.

        The counts stay readable. Not called in a killed process.
        """


@runtime_checkable
class CallCounter(Protocol):
    """Optional member of the recorder of the monitor `metrics`, in the replica's process."""

    def counts(self) -> Mapping[str, int]:
        """
        Return the numbers of calls so far, for `ctx.statistics()`.

        `request_count`: ended calls. `error_count`: those without a result.
        """


@runtime_checkable
class CallSurrounder(Protocol):
    """Optional member of a recorder in the replica's process that wraps each run of a method, as traces do."""

    def around(self, call: Call, /) -> AbstractContextManager[object]:
        """
        Return a context manager to enter around the method, in the thread or task that runs it.

        It sees what the method raises; its own exception ends the call. It surrounds a whole generator. For a batch,
        this is called once, with the call that has the most time left.
        """


class RecorderFactory(Protocol):
    """A monitor's role in each replica's process, which calls `recorder` once and keeps only the recorder."""

    def recorder(self, who: ReplicaInfo, methods: tuple[str, ...], /) -> Recorder | None:
        """Return a recorder for a replica or the calling side; None to count nothing."""


class WatchedReplica(Protocol):
    """A replica as monitors see it. Numbers of calls may be off by one."""

    @property
    def id(self) -> str:
        """As `Replica.id`."""

    @property
    def state(self) -> ReplicaState:
        """Its state. Only a `ready`, `unready` or `unhealthy` replica can be checked."""

    @property
    def node(self) -> str | None:
        """Its node's name; None for this process, or before placement."""

    @property
    def slots(self) -> int:
        """As `Replica.slots`."""

    @property
    def inflight(self) -> int:
        """As `Candidate.inflight`."""

    @property
    def abandoned(self) -> int:
        """Slots held by calls that callers gave up."""

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:
        """As `Replica.control`. Use your own thread: with a hanging replica, this may block forever."""

    def mark(self, state: ReplicaState, reason: str) -> None:
        """
        Set the state to `unhealthy`, `unready`, or `ready` again; *reason* says why.

        A replica that is not ready gets no new calls while another is; its running calls go on. Does nothing for a
        replica that starts or leaves. Thread-safe; do not hold a lock that `Monitor.event` takes.
        """


class WatchedService(Protocol):
    """A service as monitors see it. Thread-safe."""

    @property
    def name(self) -> str:
        """The service's name."""

    @property
    def config(self) -> Any:
        """Its `ServiceDeploymentConfig`."""

    @property
    def clock(self) -> Clock:
        """Its clock, for timers and timeouts."""

    @property
    def hooks(self) -> frozenset[str]:
        """Names of its class's lifecycle hooks, such as `"check_health"`."""

    @property
    def environment(self) -> str | None:
        """Its environment's name; None for a task outside any."""

    @property
    def queued(self) -> int:
        """Accepted calls that wait for a slot; may be off by one."""

    def snapshots(self) -> Sequence[Mapping[str, Any]]:
        """
        Return the snapshots of this monitor's recorders, for all replicas and the calling side.

        A `SnapshotMerger` also gets those of replicas that left. Asks replicas in other processes, for at most 1 s in
        all. Do not call this from `Monitor.event`.
        """

    def replicas(self) -> Sequence[WatchedReplica]:
        """Return the present replicas; each keeps one object for life."""

    def on_given_up(self, look: Callable[[], None]) -> None:
        """
        Register a function to call each time a caller gives up a call, which may still run.

        Called from any thread; must not block.
        """


class Monitor(RecorderFactory, Protocol):
    """
    A monitor's role on the calling side: learns what happens to a service, and adds up the counts.

    Here `recorder` is called once, for given-up calls. `MetricsExporter`, `ServiceWatcher` and `SnapshotMerger` add
    optional members. Replicas' processes have a `RecorderFactory`: another object, perhaps of the same class.
    """

    def refused(self, method: int, reason: str, /) -> None:
        """
        Learn that the service did not accept a call. Called from any thread.

        *reason*: `"overloaded"`, `"stopped"`, `"no_replica"` or `"circuit_open"`.
        """

    def event(self, event: Event) -> None:
        """Learn of a decision. Called from any thread; must not block."""

    def summary(self, snapshots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return what `get_service_status` shows, merged from recorders' snapshots."""

    def close(self) -> None:
        """Release everything: the service has stopped. Idempotent."""


@runtime_checkable
class ServiceWatcher(Protocol):
    """Optional member of a monitor that watches the service and declares `watches_service`."""

    def attach(self, service: WatchedService) -> None:
        """Begin to watch *service*. Called once, before it starts."""


@runtime_checkable
class SnapshotMerger(Protocol):
    """
    Optional member of a monitor that declares `merges_counts`; without it, counts of replicas that leave are lost.
    """

    def merge(self, snapshots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Combine *snapshots*, also combined ones. Called from any thread."""


@runtime_checkable
class MetricsExporter(Protocol):
    """Optional member of a monitor that declares `exports_metrics`: adds to `Operations.metrics`, so to `/metrics`."""

    def families(self, snapshots: Sequence[Mapping[str, Any]]) -> Iterable[Family]:
        """
        Return the present numbers, from the same *snapshots* as `summary`. Called from any thread.

        A counter must never fall, even when replicas leave. A label must have few values, none from arguments.
        """


class QuietMonitor(Monitor):
    """A base class for monitors whose members do nothing."""

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
