"""Where replicas run: the target, the replica that it starts, and what it tells the core about each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    "LifeEvents",
    "QuietEvents",
    "Replica",
    "ReplicaEvents",
    "SlotEvents",
    "Surroundings",
    "Target",
    "Work",
]

#: One piece of work for a replica: a call, a batch of calls, or a step of the replica's life such as building the
#: instance. Opaque: a strategy hands it to a worker's `execute` and looks no further.
Work: TypeAlias = Any


class Replica(Protocol):
    """
    The caller's side of one running copy of a service.

    One in another process may also have `counts(call, outcome, spent_s) -> bool`: whether that process counts a call
    which its caller gave up while it ran, rather than the calling side. It is called in place of telling a monitor.

    One that may have to wait before its instance is built, for a place or a process, may also have
    `progress(*, timeout: float) -> str`, which answers within *timeout* seconds. It says what the replica waits for,
    and what to do, in words that complete "the replica is not ready: ...", and "" once the instance is being built. It
    is asked for the error of a replica that was not ready in time.

    One that further processes may call, see `Target`, has two more: `address`, by which `Entrance.attach` reaches it
    there, and `vacate() -> Callable[[float], None]`, which has it refuse their calls from now on, and gives what waits
    at most so many seconds until those that it has are answered.

    One that can outlive this process has `leave() -> None`: it goes on, and this side of it is not used any more. Calls
    that it has from here end as after `stop`.
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

    Calls may join a batch until it `is_closed`: who runs it waits for that with `gather` or `watch`. Work that is sent
    to a replica which has died meanwhile is reported through `LifeEvents.lost` as not started.
    """

    run_here: Callable[[Call], None] | None
    """For replicas in this process whose strategy has no workers: runs a call in the calling thread."""

    cancel: Callable[[Call], None]
    """
    Stop the coroutine of a started call whose caller gave it up; never blocks. A method that is no coroutine goes on.
    """

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:
        """
        Ask something beside the calls, on a lane of its own: it is answered also when all slots are taken.

        Raises at once for a replica that is known to have died.
        """

    def stop(self, grace: float) -> int:
        """
        Run the stop hooks, then end the workers; waits at most *grace* seconds.

        Idempotent, also for a replica that has died or failed to start: then it lets go of what it held. Returns how
        many calls still run.
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

    def ahead(self, call: Call, most: int, /) -> Sequence[Call]:
        """
        Waiting calls to send along with *call*, which is about to be sent, to run after it in its slot.

        All are idempotent.
        At most *most*, and no more than are this slot's share; often none. The slot is free when all have ended, and
        that is told of *call*. If the replica dies, those that were not answered are `maybe`, each on its own.
        """

    def returned(self, calls: Sequence[Call], /) -> None:
        """Some that `ahead` gave have not started, since those before them take long: they wait again."""


class LifeEvents(Protocol):
    """What a target tells the core about the life of one replica, from any thread."""

    def changed(self, state: ReplicaState, cause: BaseException | None = None) -> None:
        """The replica's state changed; *cause* says why for `failed` and `unhealthy`."""

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

    def ahead(self, call: Call, most: int, /) -> Sequence[Call]:  # noqa: ARG002 - as the interface has it
        """Nothing waits here."""
        return ()

    def returned(self, calls: Sequence[Call], /) -> None:
        """Nothing was sent ahead."""

    def changed(self, state: ReplicaState, cause: BaseException | None = None) -> None:
        """Nobody looks after the replica here."""

    def lost(self, not_started: Sequence[Work], maybe: Sequence[Work], cause: BaseException) -> None:
        """Nobody looks after the replica here."""

    def service(self, name: str) -> Any:
        """There is no other service here."""
        raise LookupError(name)


class Target(Protocol):
    """
    Where replicas run: one object for each service.

    One whose services can be called from further processes declares the capability `reachable`, and has a method
    `directory(environment: str) -> Directory`, which starts nothing. What it gives for the same environment, by ID, is
    equal.

    One whose replicas can outlive this process declares `detaches` as well, and has two more:

    * `keeper(environment: str, name: str) -> Keeper | None`, for an environment by ID and name, starts nothing. None if
      replicas end with this process, as this target is configured. Otherwise they have `leave`, see `Replica`.
    * `adopt(spec: ReplicaSpec, found: KeptReplica, events: ReplicaEvents, clock: Clock) -> Replica`, as `start`, for a
      replica that was there before, which may still be starting.
    """

    def place(self, specs: Sequence[ReplicaSpec]) -> Sequence[Placed | Refused]:
        """Decide for each replica where it will run. Starts nothing."""

    def start(self, spec: ReplicaSpec, at: Placed, events: ReplicaEvents, clock: Clock) -> Replica:
        """Start a replica; returns at once, in state `starting`, and reports `ready` or `failed` through *events*."""

    def close(self) -> None:
        """Let go of whatever the target holds, after its replicas were stopped. Idempotent."""
