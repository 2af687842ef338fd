"""Where replicas run: the target, the replica that it starts, and what it tells the core about each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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

#: One piece of work for a replica: a call, a batch of calls, or a step of the replica's life such as building the
#: instance. Opaque: a strategy hands it to a worker's `execute` and looks no further.
Work: TypeAlias = Any


class Replica(Protocol):
    """
    The caller's side of one running copy of a service.

    The capabilities that its target declares may ask for more: `KillableReplica`, `WaitingReplica`, `ReachableReplica`
    and `DetachableReplica` say what.
    """

    id: str
    """Such as `"kv#0"`."""

    index: int
    """Position among the service's replicas, from 0."""

    node: str | None
    """Name of the node, None for this process."""

    slots: int
    """Calls at once, at most."""

    send: Callable[[Work], None]
    """
    Hand over work for which the router holds a slot: a call, or a `batch.Batch` of several. Never blocks.

    From any thread, the clock's included. Work that is sent to a replica which has died meanwhile is reported through
    `LifeEvents.lost` as not started.
    """

    run_here: Callable[[Call], None] | None
    """For replicas in this process whose strategy has no workers: runs a call in the calling thread."""

    def give_up(self, call: Call, outcome: int, spent: float, /) -> bool:
        """
        Take note that the caller gave up a call which had started; never blocks.

        If a coroutine answers the call, stop it. A method that is no coroutine goes on, and keeps its slot until it
        ends.

        Args:
            call: The call.
            outcome: How it ended for its caller, an `Outcome`. `Outcome.OK` means that the consumer of a stream wants
                no more items: stop its generator, and let the call end and be counted as usual.
            spent: Seconds since the call was made.

        Returns:
            Whether the replica's process counts the call; otherwise the calling side does.
        """

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:
        """
        Ask something beside the calls, on a lane of its own: it is answered also when all slots are taken.

        Raises at once for a replica that is known to have died.
        """

    def begin_stop(self) -> None:
        """
        Begin to stop; returns at once.

        Calls that still run end with ServiceStoppedError, and the stop hooks run as soon as a worker is free. The
        engine calls this for all replicas that leave before it waits for any of them. May be called again, from any
        thread, also while `stop` runs.
        """

    def stop(self, grace: float) -> int:
        """
        Stop: begin, if `begin_stop` was not called, wait for the stop hooks and end the workers.

        Waits at most *grace* seconds. May be called again, and from several threads at once, also for a replica that
        has died or failed to start: then it lets go of what it held. Returns how many calls still run.

        If it raises, the error is logged, and the replica counts as stopped.
        """


class ReplicaHolds(Protocol):
    """
    What a replica holds at one instant; the attribute `holds` of replicas that can say so.

    The router compares it with its own count, when an exception between two steps of a thread, such as that of a signal
    handler, may have lost a slot. Every piece of work that was sent and has not ended counts at least once, but for the
    instants in which a thread passes it on.
    """

    def counts(self) -> Sequence[Callable[[], int]]:
        """
        Built-in functions without arguments, to be called once; their sum is the pieces of work.

        They are called in one step of the interpreter, so that all numbers are of the same moment.
        """

    def nudge(self) -> None:
        """Whoever sent work may not have come to say so: have the workers look; from any thread."""


class KillableReplica(Replica, Protocol):
    """What replicas have whose target declares `can_kill`: each has a process of its own."""

    def kill(self, cause: BaseException) -> bool:
        """
        End the process at once, whatever it does, and report its death through `LifeEvents.lost`, with *cause*.

        May block for a moment; from any thread. False if it has ended, or was stopped, before.
        """


class WaitingReplica(Replica, Protocol):
    """What replicas have whose target declares `reports_progress`: they may wait for a place or a process."""

    def progress(self, *, timeout: float) -> str:
        """
        What a replica waits for that was not ready in time; asked for the error that says so.

        Args:
            timeout: Seconds within which the answer comes.

        Returns:
            What it waits for, and what to do, in words that complete "the replica is not ready: ..."; "" once the
            instance is being built.
        """


class ReachableReplica(Replica, Protocol):
    """What replicas have whose target declares `reachable`: further processes may call them."""

    @property
    def address(self) -> Any:
        """By which other processes reach it; it can be pickled."""

    def vacate(self) -> Callable[[float], None]:
        """
        Refuse calls of other processes from now on; returns at once.

        Returns:
            What waits, at most so many seconds, until those that it has are answered.
        """


class DetachableReplica(ReachableReplica, Protocol):
    """What replicas have whose target declares `detaches`: they can outlive this process."""

    def leave(self) -> None:
        """
        Have it go on; this side of it is not used any more.

        Calls that it has from here end as after `stop`.
        """


class SlotEvents(Protocol):
    """What a target tells the core about the slots of one replica, from any thread."""

    freed: Callable[[Work], None]
    """The work that was sent has ended, and its slot is free again: the next work is sent."""

    follow: Callable[[Work], Work | None]
    """
    Like `freed`, for a replica that can go on at once: gives the next work for the slot, or None if it is free now.
    """

    def refused(self, work: Work, *, stuck: bool = False) -> None:
        """
        The replica had no slot for the work, because other processes use it as well; it has not started.

        The slot stays taken until `freed(None)`. *stuck* says that all are held by calls from within which it was made.
        """

    def ahead(self, call: Call, most: int, /, *, told: bool = False) -> Sequence[Call]:
        """
        Waiting calls to send along with *call*, which is about to be sent, to run after it in its slot.

        At most *most*, and no more than are this slot's share; often none. All are idempotent, unless the replica says
        of each that it starts before it does (*told*). The slot is free when all have ended, and that is told of
        *call*. If the replica dies, those that may have started and were not answered are `maybe`, each on its own.
        """

    def returned(self, calls: Sequence[Call], /) -> None:
        """Some that `ahead` gave have not started, since those before them take long: they wait again."""


class LifeEvents(Protocol):
    """What a target tells the core about the life of one replica, from any thread."""

    def changed(self, state: ReplicaState, cause: BaseException | None = None) -> None:
        """The replica's state changed; *cause* says why for `failed` and `unhealthy`."""

    def remark(self, text: str) -> None:
        """The replica works, but not as well as it could: monitors get *text* in an event `replica_remark`."""

    def lost(self, not_started: Sequence[Work], maybe: Sequence[Work], cause: BaseException) -> None:
        """
        The replica died with this work: what surely had not started, and what may have.

        Said once of each death, as soon as it is known, also if it runs nothing or was not ready yet; not of a replica
        that was told to stop. It is replaced then, through `Target.place` and `Target.start`, which are called from
        another thread. Work is not "not started" once the replica has begun to unpack its arguments, which runs code
        too: such work goes to another replica, each time, and would take them all with it.
        """


class Surroundings(Protocol):
    """What an instance can reach from its replica."""

    def service(self, name: str) -> Any:
        """A handle to another service, for the instance's `ctx`."""


class ReplicaEvents(SlotEvents, LifeEvents, Surroundings, Protocol):
    """What a target is handed for one replica: `SlotEvents`, `LifeEvents` and `Surroundings` in one."""


class QuietEvents(ReplicaEvents):
    """
    A base for those who implement only some of `ReplicaEvents`, such as a test: the rest does nothing.

    `freed` and `follow` are the subclass's: a replica without them cannot give its slots back.
    """

    def refused(self, work: Work, *, stuck: bool = False) -> None:
        """Nothing waits here for another slot."""

    def ahead(
        self,
        call: Call,  # noqa: ARG002 - as the interface has it
        most: int,  # noqa: ARG002 - as above
        /,
        *,
        told: bool = False,  # noqa: ARG002 - as above
    ) -> Sequence[Call]:
        """Nothing waits here."""
        return ()

    def returned(self, calls: Sequence[Call], /) -> None:
        """Nothing was sent ahead."""

    def changed(self, state: ReplicaState, cause: BaseException | None = None) -> None:
        """Nobody looks after the replica here."""

    def remark(self, text: str) -> None:
        """Nobody looks after the replica here."""

    def lost(self, not_started: Sequence[Work], maybe: Sequence[Work], cause: BaseException) -> None:
        """Nobody looks after the replica here."""

    def service(self, name: str) -> Any:
        """There is no other service here."""
        raise LookupError(name)


class Target(Protocol):
    """
    Where replicas run: one object for each service.

    One whose services can be called from further processes declares the capability `reachable` and is a
    `ReachableTarget`. One whose replicas can outlive this process declares `detaches` as well and is a
    `DetachingTarget`. One that can say which nodes it has declares `lists_nodes` and is a `ListingTarget`.
    """

    def place(self, specs: Sequence[ReplicaSpec]) -> Sequence[Placed | Refused]:
        """Decide for each replica where it will run. Starts nothing."""

    def start(self, spec: ReplicaSpec, at: Placed, events: ReplicaEvents, clock: Clock) -> Replica:
        """Start a replica; returns at once, in state `starting`, and reports `ready` or `failed` through *events*."""

    def close(self) -> None:
        """Let go of whatever the target holds, after its replicas were stopped. Idempotent."""


class NodeView(NamedTuple):
    """
    A node on which replicas may run.

    Attributes:
        name: As in `Placed.node`.
        cpu: Cores that are free, and all that it has.
        gpu: The same of GPUs.
        memory: The same of bytes.
        labels: What it is labelled with.
    """

    name: str
    cpu: tuple[float, float]
    gpu: tuple[float, float]
    memory: tuple[int, int]
    labels: Mapping[str, str]


class ListingTarget(Target, Protocol):
    """A target that says which nodes it has; it declares `lists_nodes`."""

    def nodes(self) -> Sequence[NodeView]:
        """The nodes that live, as they are now; may ask a cluster. Any thread."""
