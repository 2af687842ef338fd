"""The interfaces of targets: the target, the replicas that it starts, and its reports to the core about each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.interfaces.control import ControlOp
    from sage_plugins.values import (
        Placed,
        Refused,
        ReplicaSpec,
        ReplicaState,
    )


__all__ = [
    "DetachableReplica",
    "KillableReplica",
    "LifeEvents",
    "ListingTarget",
    "NodeView",
    "QuietEvents",
    "ReachableReplica",
    "Replica",
    "ReplicaEvents",
    "ReplicaHolds",
    "SlotEvents",
    "Surroundings",
    "Target",
    "WaitingReplica",
    "Work",
]

#: A call, a batch of calls, or a life-cycle step such as building the instance. Opaque: a strategy only passes it to a
#: worker's `execute`.
Work: TypeAlias = Any


class Replica(Protocol):
    """
    The caller's side of one replica.

    Capabilities of its target add members: `KillableReplica`, `WaitingReplica`, `ReachableReplica`,
    `DetachableReplica`.
    """

    id: str
    """ID, such as `"kv#0"`."""

    index: int
    """Position in the service, from 0."""

    node: str | None
    """Its node's name; None for this process."""

    slots: int
    """Maximum calls at once."""

    send: Callable[[Work], None]
    """
    Sends a call or `batch.Batch` for which the router holds a slot; never blocks.

    Called from any thread, including the clock's. If the replica is dead, report the work to `LifeEvents.lost` as not
    started.
    """

    run_here: Callable[[Call], None] | None
    """Runs a call in the calling thread, if the replica is in this process and its strategy has no workers."""

    def give_up(self, call: Call, outcome: int, spent: float, /) -> bool:
        """
        Cancel a started coroutine that its caller has given up; never blocks. Other methods go on and keep their slot.

        Args:
            call: The call.
            outcome: Its `Outcome`. `OK`: a stream's consumer wants no more items; stop the generator, and end and count
                the call as usual.
            spent: Seconds since the call was made.

        Returns:
            Whether the replica's process counts the call; if not, the calling side does.
        """

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:
        """Run a control operation without a slot. Raises at once if the replica is known to be dead."""

    def begin_stop(self) -> None:
        """
        Begin to stop; return at once.

        Running calls end with ServiceStoppedError; stop hooks run once a worker is free. May be called again, from any
        thread, also during `stop`.
        """

    def stop(self, grace: float) -> int:
        """
        Wait at most *grace* seconds for the stop hooks, and end the workers, also without `begin_stop`.

        Returns how many calls still run. Also releases what a replica held that died or did not start. May be called
        again, by several threads at once. If it raises, the core logs the error and treats the replica as stopped.
        """


class ReplicaHolds(Protocol):
    """
    The optional attribute `holds` of a replica: counts its work at one moment.

    With it, the router finds slots lost by exceptions between two steps of a thread, such as a signal handler's. Count
    sent, unended work at least once, except while one thread passes it to another.
    """

    def counts(self) -> Sequence[Callable[[], int]]:
        """
        Return built-in functions without arguments whose results add up to the number of pieces of work.

        The router calls all in one step of the interpreter.
        """

    def workers(self) -> Callable[[], Iterable[tuple[Hashable, tuple[object, float]]]]:
        """
        Return a built-in function that returns each worker, its work (None: idle) and when that last ended.

        The router calls it in the same step. Work may be on its way to an idle worker, in no count. So the router
        believes that a worker is idle only if it was at the previous look, and has done nothing since.
        """

    def nudge(self) -> None:
        """Wake the workers, if an interrupted sender may not have. Thread-safe."""


class KillableReplica(Replica, Protocol):
    """A replica whose target declares `can_kill`."""

    def kill(self, cause: BaseException) -> bool:
        """
        End the process at once; report its death to `LifeEvents.lost`, with *cause*.

        Returns False if it had already ended or been stopped. May block for a moment. Thread-safe.
        """


class WaitingReplica(Replica, Protocol):
    """A replica whose target declares `reports_progress`."""

    def progress(self, *, timeout: float) -> str:
        """
        Return, within *timeout* seconds, what the replica waits for and what to do.

        The text completes "the replica is not ready: ..."; "" once the instance is being built.
        """


class ReachableReplica(Replica, Protocol):
    """A replica whose target declares `reachable`."""

    @property
    def address(self) -> Any:
        """Where other processes call the replica; picklable."""

    def vacate(self) -> Callable[[float], None]:
        """
        Refuse further calls from other processes; return at once.

        The returned function waits, at most the given seconds, for the calls already received.
        """


class DetachableReplica(ReachableReplica, Protocol):
    """A replica whose target declares `detaches`."""

    def leave(self) -> None:
        """Leave the replica running. The core stops using this object; its calls end as after `stop`."""


class SlotEvents(Protocol):
    """Takes a target's reports about one replica's slots. Thread-safe."""

    freed: Callable[[Work], None]
    """Reports that work has ended and its slot is free."""

    follow: Callable[[Work], Work | None]
    """As `freed`, if the replica can continue at once: returns the slot's next work; None: the slot is free."""

    def refused(self, work: Work, *, stuck: bool = False) -> None:
        """
        Report that work has not started because other processes use all slots of the replica.

        The slot stays taken until `freed(None)`. *stuck*: calls that made this call, directly or indirectly, hold all
        slots.
        """

    def ahead(self, call: Call, most: int, /, *, told: bool = False) -> Sequence[Call]:
        """
        Return at most *most* waiting calls, often none, to send with *call*. They run after it in its slot.

        Only idempotent calls, unless the replica reports each before it starts (*told*). When all have ended, report
        `freed` or `follow` for *call*. If the replica dies, report unanswered calls that may have started as *maybe*.
        """

    def returned(self, calls: Sequence[Call], /) -> None:
        """Report calls from `ahead` that have not started because earlier calls take long. They wait again."""


class LifeEvents(Protocol):
    """Takes a target's reports about one replica's life. Thread-safe."""

    def changed(self, state: ReplicaState, cause: BaseException | None = None) -> None:
        """Report a new state; *cause* says why for `failed` and `unhealthy`."""

    def remark(self, text: str) -> None:
        """Report how the replica works less well than it could, as the event `replica_remark`."""

    def lost(self, not_started: Sequence[Work], maybe: Sequence[Work], cause: BaseException) -> None:
        """
        Report that the replica died. *not_started*: work that surely had not started; *maybe*: work that may have.

        Report each death once, as soon as it is known, also of an idle or unready replica, but not of one told to stop.
        The core then calls `Target.place` and `Target.start` in another thread.

        A call is *maybe* once the replica begins to unpack its arguments: that runs code, which could kill one replica
        after another.
        """


class Surroundings(Protocol):
    """What an instance can reach outside its replica."""

    def service(self, name: str) -> Any:
        """Return a handle to another service, for the instance's `ctx`."""


class ReplicaEvents(SlotEvents, LifeEvents, Surroundings, Protocol):
    """`SlotEvents`, `LifeEvents` and `Surroundings` of one replica, for its target."""


class QuietEvents(ReplicaEvents):
    """A base class whose members do nothing. Write at least `freed` and `follow`."""

    def refused(self, work: Work, *, stuck: bool = False) -> None:
        """Do nothing."""

    def ahead(
        self,
        call: Call,  # noqa: ARG002 - as the interface has it
        most: int,  # noqa: ARG002 - as above
        /,
        *,
        told: bool = False,  # noqa: ARG002 - as above
    ) -> Sequence[Call]:
        """Return nothing."""
        return ()

    def returned(self, calls: Sequence[Call], /) -> None:
        """Do nothing."""

    def changed(self, state: ReplicaState, cause: BaseException | None = None) -> None:
        """Do nothing."""

    def remark(self, text: str) -> None:
        """Do nothing."""

    def lost(self, not_started: Sequence[Work], maybe: Sequence[Work], cause: BaseException) -> None:
        """Do nothing."""

    def service(self, name: str) -> Any:
        """Raise LookupError."""
        raise LookupError(name)


class Target(Protocol):
    """
    Places and starts one service's replicas.

    Capabilities add members: `ReachableTarget`, `DetachingTarget`, `ListingTarget`.
    """

    def place(self, specs: Sequence[ReplicaSpec]) -> Sequence[Placed | Refused]:
        """Decide where each replica will run; start nothing."""

    def start(self, spec: ReplicaSpec, at: Placed, events: ReplicaEvents, clock: Clock) -> Replica:
        """Start a replica; return it at once, in state `starting`. Report `ready` or `failed` to *events*."""

    def close(self) -> None:
        """Release everything, after the replicas have stopped. Idempotent."""


class NodeView(NamedTuple):
    """
    A node for replicas. Pairs are free and total.

    Attributes:
        name: Its name, as in `Placed.node`.
        cpu: Cores.
        gpu: GPUs.
        memory: Bytes.
        labels: Its labels.
    """

    name: str
    cpu: tuple[float, float]
    gpu: tuple[float, float]
    memory: tuple[int, int]
    labels: Mapping[str, str]


class ListingTarget(Target, Protocol):
    """A target that declares `lists_nodes`."""

    def nodes(self) -> Sequence[NodeView]:
        """Return the live nodes. May ask a cluster. Thread-safe."""
