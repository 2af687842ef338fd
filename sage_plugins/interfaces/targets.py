"""The interfaces of targets: the target, the replicas that it starts, and its reports to the core about each."""

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

#: One piece of work for a replica: a call, a batch of calls, or a life-cycle step such as building the instance.
#: Opaque: a strategy only passes it to a worker's `execute`.
Work: TypeAlias = Any


class Replica(Protocol):
    """
    The caller's side of one replica.

    If its target declares certain capabilities, it needs more members: see `KillableReplica`, `WaitingReplica`,
    `ReachableReplica` and `DetachableReplica`.
    """

    id: str
    """ID of the replica, such as `"kv#0"`."""

    index: int
    """Position among the service's replicas, from 0."""

    node: str | None
    """Name of the node; None for this process."""

    slots: int
    """Maximum number of calls at once."""

    send: Callable[[Work], None]
    """
    Sends work to the replica: a call, or a `batch.Batch` of several. The router holds a slot for it. Never blocks.

    Called from any thread, including the clock's. If the replica has died in the meantime, report the work through
    `LifeEvents.lost` as not started.
    """

    run_here: Callable[[Call], None] | None
    """Runs a call in the calling thread, if the replica is in this process and its strategy has no workers."""

    def give_up(self, call: Call, outcome: int, spent: float, /) -> bool:
        """
        Stop a started call that its caller has given up, if possible; never blocks.

        If the method is a coroutine, cancel it. Any other method goes on, and keeps its slot until it ends.

        Args:
            call: The call.
            outcome: How it ended for its caller, an `Outcome`. `Outcome.OK` means that the consumer of a stream wants
                no more items: stop the generator, and let the call end and be counted as usual.
            spent: Seconds since the call was made.

        Returns:
            Whether the replica's process counts the call. If not, the calling side does.
        """

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:
        """
        Run a control operation on the replica. It needs no slot, so it works even when all slots are taken.

        Raises at once if the replica is known to be dead.
        """

    def begin_stop(self) -> None:
        """
        Begin to stop; return at once.

        Running calls end with ServiceStoppedError. The stop hooks run as soon as a worker is free. The core calls this
        for all leaving replicas before it waits for any of them. It may be called again, from any thread, also while
        `stop` runs.
        """

    def stop(self, grace: float) -> int:
        """
        Begin to stop if `begin_stop` was not called, wait for the stop hooks, and end the workers.

        Waits at most *grace* seconds. Returns how many calls still run. May be called again, also by several threads at
        once. If the replica has died or failed to start, this releases what it held.

        If it raises, the core logs the error and treats the replica as stopped.
        """


class ReplicaHolds(Protocol):
    """
    Counts the work that a replica has at one moment: the optional attribute `holds` of a replica.

    An exception between two steps of a thread, such as one from a signal handler, may lose a slot. Then the router
    compares its own count with this one. Each piece of work that was sent and has not ended must count at least once,
    except while one thread passes it to another.
    """

    def counts(self) -> Sequence[Callable[[], int]]:
        """
        Return built-in functions without arguments. The sum of their results is the number of pieces of work.

        The router calls each once, all in one step of the interpreter, so all numbers are of the same moment.
        """

    def nudge(self) -> None:
        """Wake the workers to look for work, if an interrupted sender may not have. Safe from any thread."""


class KillableReplica(Replica, Protocol):
    """The members of replicas whose target declares `can_kill`: each has a process of its own."""

    def kill(self, cause: BaseException) -> bool:
        """
        End the process at once, whatever it does, and report its death through `LifeEvents.lost`, with *cause*.

        May block for a moment. Safe from any thread. Returns False if the process had already ended or been stopped.
        """


class WaitingReplica(Replica, Protocol):
    """The members of replicas whose target declares `reports_progress`: they may wait for a node or a process."""

    def progress(self, *, timeout: float) -> str:
        """
        Return why the replica was not ready in time; for the error message.

        Args:
            timeout: Seconds within which this must return.

        Returns:
            What it waits for and what to do, in words that complete "the replica is not ready: ...". "" once the
            instance is being built.
        """


class ReachableReplica(Replica, Protocol):
    """The members of replicas whose target declares `reachable`: other processes may call them."""

    @property
    def address(self) -> Any:
        """The address at which other processes call the replica; picklable."""

    def vacate(self) -> Callable[[float], None]:
        """
        Refuse calls from other processes from now on; return at once.

        Returns:
            A function that waits, at most the given seconds, until the calls that it has already got are answered.
        """


class DetachableReplica(ReachableReplica, Protocol):
    """The members of replicas whose target declares `detaches`: they can outlive this process."""

    def leave(self) -> None:
        """
        Leave the replica running. The core does not use this object any more.

        Calls from this process to the replica end as after `stop`.
        """


class SlotEvents(Protocol):
    """Where a target reports what happens to the slots of one replica. Safe from any thread."""

    freed: Callable[[Work], None]
    """Reports that the sent work has ended and its slot is free. The core then sends the next work."""

    follow: Callable[[Work], Work | None]
    """
    As `freed`, for a replica that can continue at once: returns the next work for the slot, or None if the slot is now
    free.
    """

    def refused(self, work: Work, *, stuck: bool = False) -> None:
        """
        Report that the replica had no slot for the work, because other processes use it too. The work has not started.

        The slot stays taken until `freed(None)`. *stuck* is True if all slots are held by calls that made this call,
        directly or through other calls.
        """

    def ahead(self, call: Call, most: int, /, *, told: bool = False) -> Sequence[Call]:
        """
        Return waiting calls to send together with *call*, which is about to be sent. They run after it in its slot.

        Returns at most *most*, at most this slot's share, and often none. Returns only idempotent calls, unless the
        replica reports each call before it starts (*told*). The slot is free when all have ended; then report `freed`
        or `follow` for *call*. If the replica dies, report each call that may have started and was not answered as
        *maybe*.
        """

    def returned(self, calls: Sequence[Call], /) -> None:
        """Report calls from `ahead` that have not started, because earlier calls take long. They wait again."""


class LifeEvents(Protocol):
    """Where a target reports the state and the death of one replica. Safe from any thread."""

    def changed(self, state: ReplicaState, cause: BaseException | None = None) -> None:
        """Report that the replica's state changed; *cause* says why for `failed` and `unhealthy`."""

    def remark(self, text: str) -> None:
        """Report that the replica works, but not as well as it could. Monitors get *text* as event `replica_remark`."""

    def lost(self, not_started: Sequence[Work], maybe: Sequence[Work], cause: BaseException) -> None:
        """
        Report that the replica died. *not_started* is work that surely had not started; *maybe* may have started.

        Report each death once, as soon as it is known, even if the replica ran nothing or was not ready yet. Do not
        report a replica that was told to stop. The core then replaces the replica: another thread calls `Target.place`
        and `Target.start`.

        A call counts as *maybe* once the replica has begun to unpack its arguments, because unpacking runs code too.
        Otherwise the call could go to one replica after another and kill them all.
        """


class Surroundings(Protocol):
    """What an instance can reach outside its replica."""

    def service(self, name: str) -> Any:
        """Return a handle to another service, for the instance's `ctx`."""


class ReplicaEvents(SlotEvents, LifeEvents, Surroundings, Protocol):
    """The object that a target gets for one replica: `SlotEvents`, `LifeEvents` and `Surroundings` in one."""


class QuietEvents(ReplicaEvents):
    """
    A base class for classes, such as in tests, that implement only some members of `ReplicaEvents`.

    The other members do nothing. The subclass must implement `freed` and `follow`: without them, a replica cannot give
    its slots back.
    """

    def refused(self, work: Work, *, stuck: bool = False) -> None:
        """Do nothing: there is no queue of calls."""

    def ahead(
        self,
        call: Call,  # noqa: ARG002 - as the interface has it
        most: int,  # noqa: ARG002 - as above
        /,
        *,
        told: bool = False,  # noqa: ARG002 - as above
    ) -> Sequence[Call]:
        """Return nothing: there is no queue of calls."""
        return ()

    def returned(self, calls: Sequence[Call], /) -> None:
        """Do nothing: nothing was sent ahead."""

    def changed(self, state: ReplicaState, cause: BaseException | None = None) -> None:
        """Do nothing: nothing supervises the replica."""

    def remark(self, text: str) -> None:
        """Do nothing: nothing supervises the replica."""

    def lost(self, not_started: Sequence[Work], maybe: Sequence[Work], cause: BaseException) -> None:
        """Do nothing: nothing supervises the replica."""

    def service(self, name: str) -> Any:
        """Raise LookupError: there is no other service."""
        raise LookupError(name)


class Target(Protocol):
    """
    Decides where replicas run, and starts them. Each service has its own object.

    Declare `reachable` and be a `ReachableTarget` if other processes can call the services. Declare `detaches` too and
    be a `DetachingTarget` if replicas can outlive this process. Declare `lists_nodes` and be a `ListingTarget` if the
    target knows its nodes.
    """

    def place(self, specs: Sequence[ReplicaSpec]) -> Sequence[Placed | Refused]:
        """Decide where each replica will run. Starts nothing."""

    def start(self, spec: ReplicaSpec, at: Placed, events: ReplicaEvents, clock: Clock) -> Replica:
        """Start a replica in state `starting`; return at once. Report `ready` or `failed` later, through *events*."""

    def close(self) -> None:
        """Release what the target holds. Called after its replicas have stopped. Idempotent."""


class NodeView(NamedTuple):
    """
    A node on which replicas may run.

    Attributes:
        name: Name of the node, as in `Placed.node`.
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
    """The members of a target that declares `lists_nodes`."""

    def nodes(self) -> Sequence[NodeView]:
        """Return the nodes that are alive now. May ask a cluster. Safe from any thread."""
