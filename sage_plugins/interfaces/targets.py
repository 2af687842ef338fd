"""Where replicas run: the target, the replicas that it starts, and what it reports to the core about each."""

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
#: instance. Opaque: a strategy only hands it to a worker's `execute`.
Work: TypeAlias = Any


class Replica(Protocol):
    """
    The caller's side of one replica.

    The capabilities of its target may require more members: see `KillableReplica`, `WaitingReplica`, `ReachableReplica`
    and `DetachableReplica`.
    """

    id: str
    """Such as `"kv#0"`."""

    index: int
    """Position among the service's replicas, from 0."""

    node: str | None
    """Name of the node; None for this process."""

    slots: int
    """Maximum number of calls at once."""

    send: Callable[[Work], None]
    """
    Hand over work for which the router holds a slot: a call, or a `batch.Batch` of several. Never blocks.

    Called from any thread, the clock's included. If the replica has died in the meantime, report the work through
    `LifeEvents.lost` as not started.
    """

    run_here: Callable[[Call], None] | None
    """For replicas in this process whose strategy has no workers: runs a call in the calling thread."""

    def give_up(self, call: Call, outcome: int, spent: float, /) -> bool:
        """
        The caller gave up a call that had started; never blocks.

        If a coroutine answers the call, stop it. Any other method goes on, and keeps its slot until it ends.

        Args:
            call: The call.
            outcome: How it ended for its caller, an `Outcome`. `Outcome.OK` means that the consumer of a stream wants
                no more items: stop its generator, and let the call end and be counted as usual.
            spent: Seconds since the call was made.

        Returns:
            Whether the replica's process counts the call. If not, the calling side does.
        """

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:
        """
        Ask the replica something, apart from the calls. It answers even when all slots are taken.

        Raises at once if the replica is known to be dead.
        """

    def begin_stop(self) -> None:
        """
        Begin to stop; return at once.

        Running calls end with ServiceStoppedError, and the stop hooks run as soon as a worker is free. The core calls
        this for all leaving replicas before it waits for any of them. May be called again, from any thread, also while
        `stop` runs.
        """

    def stop(self, grace: float) -> int:
        """
        Begin to stop if `begin_stop` was not called, wait for the stop hooks, and end the workers.

        Waits at most *grace* seconds. May be called again, also by several threads at once. For a replica that has died
        or failed to start, it releases what the replica held. Returns how many calls still run.

        If it raises, the error is logged, and the replica counts as stopped.
        """


class ReplicaHolds(Protocol):
    """
    The work that a replica holds at one instant: the attribute `holds` of replicas that can report it.

    An exception between two steps of a thread, such as one of a signal handler, may lose a slot. Then the router
    compares its own count with this one. Each piece of work that was sent and has not ended counts at least once,
    except in the instants in which one thread passes it to another.
    """

    def counts(self) -> Sequence[Callable[[], int]]:
        """
        Return built-in functions without arguments, to be called once each. Their sum is the number of pieces of work.

        They are called in one step of the interpreter, so all numbers are of the same moment.
        """

    def nudge(self) -> None:
        """
        Have the workers look for work, in case the sender was interrupted before it notified them. From any thread.
        """


class KillableReplica(Replica, Protocol):
    """The members of replicas whose target declares `can_kill`: each has a process of its own."""

    def kill(self, cause: BaseException) -> bool:
        """
        End the process at once, whatever it does, and report its death through `LifeEvents.lost`, with *cause*.

        May block for a moment. From any thread. False if the process had ended, or was stopped, before.
        """


class WaitingReplica(Replica, Protocol):
    """The members of replicas whose target declares `reports_progress`: they may wait for a place or a process."""

    def progress(self, *, timeout: float) -> str:
        """
        Say why a replica was not ready in time; for the error message.

        Args:
            timeout: Seconds within which the answer must come.

        Returns:
            What it waits for and what to do, in words that complete "the replica is not ready: ...". "" once the
            instance is being built.
        """


class ReachableReplica(Replica, Protocol):
    """The members of replicas whose target declares `reachable`: other processes may call them."""

    @property
    def address(self) -> Any:
        """The address for other processes; it can be pickled."""

    def vacate(self) -> Callable[[float], None]:
        """
        Refuse calls of other processes from now on; return at once.

        Returns:
            A function that waits, at most the given seconds, until the calls that it already has are answered.
        """


class DetachableReplica(ReachableReplica, Protocol):
    """The members of replicas whose target declares `detaches`: they can outlive this process."""

    def leave(self) -> None:
        """
        Leave the replica running. This side of it is not used any more.

        Its calls from this process end as after `stop`.
        """


class SlotEvents(Protocol):
    """A target reports here what happens to the slots of one replica, from any thread."""

    freed: Callable[[Work], None]
    """The sent work has ended, and its slot is free: the core sends the next work."""

    follow: Callable[[Work], Work | None]
    """
    Like `freed`, for a replica that can continue at once: returns the next work for the slot, or None if the slot is
    free now.
    """

    def refused(self, work: Work, *, stuck: bool = False) -> None:
        """
        The replica had no slot for the work, because other processes use it as well. The work has not started.

        The slot stays taken until `freed(None)`. *stuck*: all slots are held by calls that made this one, directly or
        through others.
        """

    def ahead(self, call: Call, most: int, /, *, told: bool = False) -> Sequence[Call]:
        """
        Return waiting calls to send together with *call*, which is about to be sent. They run after it in its slot.

        Returns at most *most*, no more than this slot's share, and often none. All are idempotent, unless the replica
        reports the start of each call before it starts (*told*). The slot is free when all have ended; report that for
        *call*. If the replica dies, each call that may have started and was not answered is `maybe`.
        """

    def returned(self, calls: Sequence[Call], /) -> None:
        """Some calls from `ahead` have not started, because those before them take long: they wait again."""


class LifeEvents(Protocol):
    """A target reports here what happens in the life of one replica, from any thread."""

    def changed(self, state: ReplicaState, cause: BaseException | None = None) -> None:
        """The replica's state changed; *cause* says why for `failed` and `unhealthy`."""

    def remark(self, text: str) -> None:
        """The replica works, but not as well as it could. Monitors get *text* in an event `replica_remark`."""

    def lost(self, not_started: Sequence[Work], maybe: Sequence[Work], cause: BaseException) -> None:
        """
        The replica died with this work: what surely had not started, and what may have started.

        Report each death once, as soon as it is known, even if the replica ran nothing or was not ready yet. Do not
        report a replica that was told to stop. The core then replaces it: another thread calls `Target.place` and
        `Target.start`. Once the replica has begun to unpack a call's arguments, the call is not "not started", because
        unpacking runs code too. Otherwise the call would go to one replica after another and could kill them all.
        """


class Surroundings(Protocol):
    """What an instance can reach from its replica."""

    def service(self, name: str) -> Any:
        """Return a handle to another service, for the instance's `ctx`."""


class ReplicaEvents(SlotEvents, LifeEvents, Surroundings, Protocol):
    """What a target gets for one replica: `SlotEvents`, `LifeEvents` and `Surroundings` in one."""


class QuietEvents(ReplicaEvents):
    """
    A base for classes that implement only some of `ReplicaEvents`, such as a test's: the rest does nothing.

    The subclass implements `freed` and `follow`: without them a replica cannot give its slots back.
    """

    def refused(self, work: Work, *, stuck: bool = False) -> None:
        """Do nothing: no call waits here for another slot."""

    def ahead(
        self,
        call: Call,  # noqa: ARG002 - as the interface has it
        most: int,  # noqa: ARG002 - as above
        /,
        *,
        told: bool = False,  # noqa: ARG002 - as above
    ) -> Sequence[Call]:
        """Return nothing: no call waits here."""
        return ()

    def returned(self, calls: Sequence[Call], /) -> None:
        """Do nothing: nothing was sent ahead."""

    def changed(self, state: ReplicaState, cause: BaseException | None = None) -> None:
        """Do nothing: nobody supervises the replica here."""

    def remark(self, text: str) -> None:
        """Do nothing: nobody supervises the replica here."""

    def lost(self, not_started: Sequence[Work], maybe: Sequence[Work], cause: BaseException) -> None:
        """Do nothing: nobody supervises the replica here."""

    def service(self, name: str) -> Any:
        """Raise LookupError: there is no other service here."""
        raise LookupError(name)


class Target(Protocol):
    """
    Decides where replicas run, and starts them. Each service has its own object.

    Declare `reachable` and be a `ReachableTarget` if other processes can call the services. Declare `detaches` too and
    be a `DetachingTarget` if replicas can outlive this process. Declare `lists_nodes` and be a `ListingTarget` if the
    target knows its nodes.
    """

    def place(self, specs: Sequence[ReplicaSpec]) -> Sequence[Placed | Refused]:
        """Decide for each replica where it will run. Starts nothing."""

    def start(self, spec: ReplicaSpec, at: Placed, events: ReplicaEvents, clock: Clock) -> Replica:
        """Start a replica in state `starting`; return at once. Reports `ready` or `failed` through *events*."""

    def close(self) -> None:
        """Release what the target holds, after its replicas were stopped. Idempotent."""


class NodeView(NamedTuple):
    """
    A node on which replicas may run.

    Attributes:
        name: As in `Placed.node`.
        cpu: Free cores, and all cores.
        gpu: Free GPUs, and all GPUs.
        memory: Free bytes, and all bytes.
        labels: The node's labels.
    """

    name: str
    cpu: tuple[float, float]
    gpu: tuple[float, float]
    memory: tuple[int, int]
    labels: Mapping[str, str]


class ListingTarget(Target, Protocol):
    """A target that lists its nodes; it declares `lists_nodes`."""

    def nodes(self) -> Sequence[NodeView]:
        """Return the nodes that are alive, as they are now. May ask a cluster. From any thread."""
