"""The replicas of one service: how they start, serve, leave, and what is kept of those that left."""

from __future__ import annotations

import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.errors import DeployError, NoReplicaError, SageDeployError, text_of
from sage_plugins.interfaces import ControlOp
from sage_plugins.values import Refused, ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_plugins.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.composition import Composition
    from sage_plugins.interfaces import Replica, Target
    from sage_plugins.lane import Lane
    from sage_plugins.router import Router
    from sage_plugins.values import ReplicaSpec
    from sage_plugins.watchers import Watchers

__all__ = ["Member", "ReplicaSet"]

_HERE = str(Path(__file__).parent)

#: States of a replica that has started and has not been told to leave.
_UP: Final = frozenset({ReplicaState.READY, ReplicaState.UNREADY, ReplicaState.UNHEALTHY})

#: Seconds that stop hooks and workers get when draining used up its time.
_LAST_GRACE_S: Final = 1.0


class Member:
    """
    One replica of a set.

    To its target it is `interfaces.ReplicaEvents`, to monitors `interfaces.WatchedReplica`.
    """

    def __init__(self, owner: ReplicaSet, spec: ReplicaSpec, lane: Lane, find_service: Callable[[str], Any]) -> None:
        self.spec = spec
        self.lane = lane
        self.id = spec.id
        self.freed: Callable[[Any], None] = lane.freed
        self.follow = lane.follow
        self._find_service = find_service
        # The next five are guarded by ReplicaSet.condition.
        self.state = ReplicaState.PENDING
        self.cause: BaseException | None = None
        self.reason = ""  # why it is marked as it is
        self.replica: Replica | None = None
        self.held = False  # whether it gets no calls yet although it is ready
        self._owner = owner

    def changed(self, state: ReplicaState, cause: BaseException | None = None) -> None:
        """As `ReplicaEvents.changed`."""
        self._owner.changed(self, state, cause)

    def lost(self, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        """As `ReplicaEvents.lost`."""
        self._owner.lost(self, not_started, maybe, cause)

    def refused(self, work: Any) -> None:
        """As `ReplicaEvents.refused`."""
        self._owner.refused(self, work)

    def service(self, name: str) -> Any:
        """As `ReplicaEvents.service`."""
        return self._find_service(name)

    def mark(self, state: ReplicaState, reason: str) -> None:
        """As `WatchedReplica.mark`."""
        self._owner.mark(self, state, reason)

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:
        """As `Replica.control`; one that is just being started is waited for, within *timeout*."""
        replica = self._owner.wait_started(self, timeout)
        if replica is None:
            msg = f"replica {self.id} was not started within {timeout:g} s"
            raise RuntimeError(msg)
        return replica.control(op, arg, timeout=timeout)

    @property
    def slots(self) -> int:
        """Calls at once, at most; 0 before it gets any."""
        return self.lane.slots

    @property
    def abandoned(self) -> int:
        """Slots held by calls whose callers have given up."""
        return self.lane.abandoned

    @property
    def up(self) -> bool:
        """Whether it has started and was not told to leave."""
        return self.state in _UP

    @property
    def in_service(self) -> bool:
        """Whether it gets calls, or would if it were ready."""
        return self.up and self.lane.slots > 0

    def stats(self) -> Mapping[str, Any]:
        """`ControlOp.STATS`, empty before it has started."""
        if self.replica is None:
            return {"runner": None, "recorders": {}}
        stats: Mapping[str, Any] = self.replica.control(ControlOp.STATS, timeout=1.0)
        return stats

    def counts(self) -> Mapping[str, Any]:
        """Its recorders' snapshots; none if it cannot be asked any more."""
        try:
            counts: Mapping[str, Any] = self.stats()["recorders"]
        except Exception:  # noqa: BLE001 - it may be gone, with its process
            return {}
        return counts

    @property
    def error(self) -> str | None:
        """Why it is not well, for a status."""
        if self.cause is not None:
            return "".join(traceback.format_exception(self.cause))
        return self.reason or None


class ReplicaSet:
    """
    The replicas of a service, and who of them gets calls.

    All methods are safe from any thread.

    Attributes:
        condition: Told of every change; guards the attributes below and the states of members.
        members: Every replica that there is, by index, those that start or leave included; replaced, never changed.
        kept: What the replicas that left have counted, {monitor id: snapshot}; replaced together with `members`.
    """

    def __init__(  # noqa: PLR0913 - what a set needs of its service
        self,
        composition: Composition,
        router: Router,
        watchers: Watchers,
        clock: Clock,
        find_service: Callable[[str], Any],
        *,
        wanted: Callable[[], bool],
        on_open: Callable[[], None],
    ) -> None:
        """
        Make an empty set.

        Args:
            composition: What to run.
            router: Sends the calls.
            watchers: Are told.
            clock: For time-outs.
            find_service: Gives instances handles to other services.
            wanted: Whether the service has not been stopped; asked under `condition`.
            on_open: Told under `condition` when another replica gets calls.
        """
        self.condition = threading.Condition()
        self.members: tuple[Member, ...] = ()
        self.kept: Mapping[str, Any] = {}
        self._composition = composition
        self._name = composition.name
        self._router = router
        self._watchers = watchers
        self._clock = clock
        self._find_service = find_service
        self._wanted = wanted
        self._on_open = on_open
        self._target: Target | None = None
        self._generations: dict[int, int] = {}  # by index, of the next replica there; guarded by condition
        # Held while replicas are being started: whoever stops them all waits until all is there that must be stopped.
        self.starting = threading.RLock()

    # -- starting ----------------------------------------------------------------------------------------------------

    def start(self, indices: Sequence[int], *, held: bool = False) -> tuple[Member, ...]:
        """
        Start a replica at each of *indices*; returns at once.

        Args:
            indices: Positions.
            held: Whether they get no calls before `admit`; otherwise each gets calls as soon as it is ready.

        Raises:
            DeployError: The target refuses one or fails, or the service was stopped; what had started was stopped.
        """
        with self.starting:
            members = self._make(indices, held=held)
            try:
                self._launch(members)
            except BaseException as error:
                self.discard(members)
                if isinstance(error, SageDeployError) or not isinstance(error, Exception):
                    raise
                target = self._composition.target
                msg = (
                    f"service '{self._name}': target '{target.id}' from {target.source} failed to start it: "
                    f"{text_of(error)}"
                )
                raise DeployError(msg, service=self._name) from error
        return members

    def _make(self, indices: Sequence[int], *, held: bool) -> tuple[Member, ...]:
        made = []
        with self.condition:
            self._check_wanted()
            for index in indices:
                generation = self._generations.get(index, 0)
                self._generations[index] = generation + 1
                spec = self._composition.spec(index, generation)
                member = Member(self, spec, self._router.lane(spec.id, index), self._find_service)
                member.held = held
                made.append(member)
            self.members = tuple(sorted((*self.members, *made), key=lambda each: each.spec.index))
        return tuple(made)

    def _check_wanted(self) -> None:
        if not self._wanted():
            msg = f"service '{self._name}' was stopped before it was ready"
            raise DeployError(msg, service=self._name)

    def _launch(self, members: Sequence[Member]) -> None:
        if self._target is None:
            self._target = self._composition.target.create()
        target = self._target
        places = list(target.place([member.spec for member in members]))
        for member, place in zip(members, places, strict=True):
            if isinstance(place, Refused):
                nodes = "".join(f"\n  {node}: {reason}" for node, reason in place.nodes.items())
                msg = f"replica {member.id} cannot be placed: {place}{nodes}"
                raise DeployError(msg, service=self._name, replica=member.id)
        for member, place in zip(members, places, strict=True):
            replica = target.start(member.spec, place, member, self._clock)
            with self.condition:
                member.replica = replica
                self.condition.notify_all()
            self._open_if_ready(member)

    def wait_started(self, member: Member, limit: float) -> Replica | None:
        """The target's side of *member*, which may report that it is ready before the target has handed it over."""
        with self.condition:
            self.condition.wait_for(lambda: member.replica is not None, limit)
            return member.replica

    def wait(self, members: Sequence[Member], limit: float) -> None:
        """
        Wait until all of *members* are ready.

        Args:
            members: Which.
            limit: Seconds.

        Raises:
            DeployError: One failed (raised from its constructor's error) or was not ready in time, or the service was
                stopped.
        """
        until = self._clock.monotonic() + limit
        with self.condition:
            while late := [each for each in members if not (each.in_service or (each.held and each.up))]:
                failed = next((each for each in members if each.state is ReplicaState.FAILED), None)
                if failed is not None:
                    raise self._constructor_failed(failed) from failed.cause
                self._check_wanted()
                remaining = until - self._clock.monotonic()
                if remaining <= 0:
                    msg = (
                        f"service '{self._name}': {', '.join(each.id for each in late)} not ready after {limit:g} s; "
                        "the constructor or a start hook still runs. Raise `startup_timeout` if it needs that long"
                    )
                    raise DeployError(msg, service=self._name)
                self.condition.wait(min(remaining, threading.TIMEOUT_MAX))

    def _constructor_failed(self, member: Member) -> DeployError:
        cause = member.cause
        frames = traceback.extract_tb(cause.__traceback__) if cause is not None else []
        own = [frame for frame in frames if not frame.filename.startswith(_HERE)]
        where = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
        hints = "".join(f"; {note}" for note in getattr(cause, "__notes__", ()))
        who = f"service '{self._name}' replica {member.spec.index}"
        msg = f"while constructing {who}: {text_of(cause)}{where}{hints}"
        return DeployError(msg, service=self._name, replica=member.id)

    def admit(self, members: Sequence[Member]) -> None:
        """Send calls to *members*, which were held back until now."""
        for member in members:
            with self.condition:
                member.held = False
            self._open_if_ready(member)

    def _open_if_ready(self, member: Member) -> None:
        """Send calls to a replica once it is ready and known here; either may come first."""
        with self.condition:
            ready = member.up and member.replica is not None
            if not ready or member.held or member.lane.slots or not self._wanted():
                return
            self._router.open(member.lane, member.replica)  # type: ignore[arg-type] # not None if ready
            self._on_open()
            self.condition.notify_all()

    # -- what replicas and monitors report ---------------------------------------------------------------------------

    def changed(self, member: Member, state: ReplicaState, cause: BaseException | None) -> None:
        """A replica reports its state."""
        with self.condition:
            # Leaving already: such as when a constructor that nobody waited for has ended.
            if member.state is ReplicaState.STOPPED or (
                member.state is ReplicaState.DRAINING and state is not ReplicaState.FAILED
            ):
                return
            member.state = state
            member.cause = cause
            self.condition.notify_all()
        self._watchers.tell(f"replica_{state}", "" if cause is None else text_of(cause), member.id)
        if state is ReplicaState.READY:
            self._open_if_ready(member)

    def lost(self, member: Member, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        """A replica died: its calls move on or end, and with the last one the service is out of replicas."""
        self._router.lost(member.lane, not_started, maybe, cause)
        self.changed(member, ReplicaState.FAILED, cause)
        if not self._router.lanes:
            msg = f"service '{self._name}' has no replica left: {member.id} died ({text_of(cause)})"
            self._router.unavailable(lambda: NoReplicaError(msg, service=self._name))

    def refused(self, member: Member, work: Any) -> None:
        """A replica had no slot for *work*: it waits again."""
        self._router.refused(member.lane, work)

    def mark(self, member: Member, state: ReplicaState, reason: str) -> None:
        """A monitor says how a replica is; see `interfaces.WatchedReplica.mark`."""
        state = ReplicaState(state)
        if state not in _UP:
            msg = f"a replica can be marked ready, unready or unhealthy, not '{state}'"
            raise ValueError(msg)
        with self.condition:
            if not member.up or member.state is state:
                return
            member.state = state
            member.reason = "" if state is ReplicaState.READY else reason
            self._router.avoid(member.lane, avoided=state is not ReplicaState.READY)
            self.condition.notify_all()
        self._watchers.tell(f"replica_{state}", reason, member.id)

    # -- leaving -----------------------------------------------------------------------------------------------------

    def leave(self, members: Sequence[Member], reason: str) -> Callable[[float], None]:
        """
        Send no more calls to *members*; those they have go on.

        Args:
            members: Which.
            reason: Why, for the events.

        Returns:
            What is left to do, with the seconds that it may take: it waits for the calls, stops the replicas and
            forgets them. Calls that still run then end with ServiceStoppedError; their methods go on.
        """
        idle = []
        for member in members:
            with self.condition:
                if member.state is not ReplicaState.FAILED:
                    member.state = ReplicaState.DRAINING
            self._watchers.tell("replica_draining", reason, member.id)
            event = threading.Event()
            self._router.retire(member.lane, event.set)
            idle.append(event)

        def finish(limit: float) -> None:
            until = self._clock.monotonic() + limit
            for event in idle:
                event.wait(max(0.0, until - self._clock.monotonic()))
            self._stop(members, max(until - self._clock.monotonic(), _LAST_GRACE_S))
            self._forget(members)

        return finish

    def discard(self, members: Sequence[Member]) -> None:
        """Stop *members*, which have not served yet, and forget them."""
        self._stop(members, _LAST_GRACE_S)
        self._forget(members)

    def _forget(self, members: Sequence[Member]) -> None:
        counts = [member.counts() for member in members]
        with self.condition:
            self.kept = self._watchers.merge([self.kept, *counts])
            self.members = tuple(each for each in self.members if each not in members)

    def forget_failed(self) -> None:
        """Forget the replicas that died: their places have been taken, or are not wanted any more."""
        self._forget([each for each in self.members if each.state is ReplicaState.FAILED])

    def stop_all(self, grace: float) -> None:
        """Stop all replicas, in reverse order, within *grace* seconds together, but at least one; close the target."""
        self._stop(self.members[::-1], max(grace, _LAST_GRACE_S))
        if self._target is not None:
            self._target.close()

    def _stop(self, members: Sequence[Member], grace: float) -> None:
        until = self._clock.monotonic() + grace
        with self.condition:
            for member in members:
                if member.up:  # nobody asks it how it is while its stop hooks run
                    member.state = ReplicaState.DRAINING
        started = [(member, member.replica) for member in members if member.replica is not None]
        # Asked first and waited for afterwards, so that one that is stuck takes no time from the others.
        for _, replica in started:
            replica.stop(0)
        for member, replica in started:
            left = replica.stop(max(0.0, until - self._clock.monotonic()))
            with self.condition:
                first = member.state is not ReplicaState.STOPPED
                member.state = ReplicaState.STOPPED
                self.condition.notify_all()
            if first:
                self._watchers.tell("replica_stopped", f"{left} calls still run" if left else "", member.id)
