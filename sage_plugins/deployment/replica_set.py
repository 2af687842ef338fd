"""The replicas of one service: how they start, serve, end and leave, and what is kept of those that left."""

from __future__ import annotations

import logging
import threading
import traceback
from concurrent.futures import wait as wait_for
from enum import Enum
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from sage_plugins.errors import DeployError, NoReplicaError, SageDeployError, text_of
from sage_plugins.interfaces import ControlOp
from sage_plugins.process_end import close_first
from sage_plugins.threads import future_of
from sage_plugins.values import Refused, ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.deployment.monitors import Watchers
    from sage_plugins.deployment.succession import Replacer
    from sage_plugins.interfaces import Directory, Keeper, Replica, Target
    from sage_plugins.planning.composition import Composition
    from sage_plugins.reach.kept import Kept
    from sage_plugins.reach.publication import Publication
    from sage_plugins.routing.lane import Lane
    from sage_plugins.routing.router import Router
    from sage_plugins.values import Placed, ReplicaSpec

__all__ = ["Care", "Member", "ReplicaSet", "Report", "raised_at"]

_Answer = TypeVar("_Answer")

#: States of a replica that has started and has not been told to leave.
_UP: Final = frozenset({ReplicaState.READY, ReplicaState.UNREADY, ReplicaState.UNHEALTHY})

#: States of a replica that ended by itself.
_ENDED: Final = frozenset({ReplicaState.FAILED, ReplicaState.CRASH_LOOP})

#: Seconds that stop hooks and workers get when draining used up its time.
_LAST_GRACE_S: Final = 1.0

#: Seconds that a replica gets to say how it is; a status waits no longer for all of them together.
_ANSWER_S: Final = 1.0

#: What is known of a replica that has never answered.
_NOTHING_SAID: Final[Mapping[str, Any]] = MappingProxyType({"runner": None, "recorders": {}, "pid": None, "age": None})

#: Why a replica is not ready that waits for nothing else.
_BEING_BUILT: Final = "the constructor or a start hook still runs. Raise `startup_timeout` if it needs that long"

#: What is told of a replica: kind of the event, reason, the replica's id.
Report: TypeAlias = tuple[str, str, str]


class Care(Enum):
    """Who sees to it that a replica which ends is replaced."""

    STARTER = "starter"
    """Whoever started it and waits for it: it is not part of the service yet."""
    SUPERVISOR = "supervisor"
    """The set: it is one of the service's replicas."""
    NOBODY = "nobody"
    """It is on its way out."""


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
        # All but the last are guarded by ReplicaSet.condition.
        self.state = ReplicaState.PENDING
        self.care = Care.STARTER
        self.heir: object = None  # what is about to take its place, beside it; nothing else may then
        self.been_ready = False
        self.cause: BaseException | None = None
        self.reason = ""  # why it is marked as it is, or why nothing has taken its place yet
        self.replica: Replica | None = None
        self.held = False  # whether it gets no calls yet although it is ready
        self._owner = owner
        self._said: Mapping[str, Any] = _NOTHING_SAID  # its statistics, when it was asked last
        self._said_at = 0.0

    def changed(self, state: ReplicaState, cause: BaseException | None = None) -> None:
        """As `ReplicaEvents.changed`."""
        self._owner.changed(self, state, cause)

    def lost(self, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        """As `ReplicaEvents.lost`."""
        self._owner.lost(self, not_started, maybe, cause)

    def refused(self, work: Any, *, stuck: bool = False) -> None:  # noqa: ARG002 - calls of this process are in no chain
        """As `ReplicaEvents.refused`."""
        self._owner.refused(self, work)

    def ahead(self, call: Call, most: int) -> Sequence[Call]:
        """As `ReplicaEvents.ahead`."""
        return self._owner.ahead(self, call, most)

    def returned(self, calls: Sequence[Call]) -> None:
        """As `ReplicaEvents.returned`."""
        self._owner.returned(calls)

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

    @property
    def ended(self) -> bool:
        """Whether it failed or died, and nothing has taken its place."""
        return self.state in _ENDED

    @property
    def is_leaving(self) -> bool:
        """Whether it is on its way out."""
        return self.state is ReplicaState.DRAINING or (self.ended and self.care is Care.NOBODY)

    @property
    def is_coming(self) -> bool:
        """Whether calls may wait for it, or for what takes its place."""
        if self.care is Care.NOBODY:
            return False
        replaced = self.state is ReplicaState.FAILED and self.care is Care.SUPERVISOR
        return replaced or self.up or self.state in {ReplicaState.PENDING, ReplicaState.STARTING}

    def progress(self) -> str:
        """What it waits for before its instance is built, as `interfaces.Replica` says; "" if for nothing."""
        ask: Callable[..., str] | None = getattr(self.replica, "progress", None)
        if ask is None:
            return ""
        try:
            return ask(timeout=_ANSWER_S)
        except Exception as error:  # noqa: BLE001 - whatever the target raises, the replica is late
            return f"how far it has got cannot be found out: {text_of(error)}"

    def stats(self) -> Mapping[str, Any]:
        """
        `ControlOp.STATS`, with its `age`; of one that does not answer in a second, what it said last.

        Before it has ever answered, its `age` and `pid` are None.
        """
        if self.replica is None:
            return self.said
        try:
            stats: Mapping[str, Any] = self.replica.control(ControlOp.STATS, timeout=_ANSWER_S)
        except Exception:  # noqa: BLE001 - it may be gone, with its process
            return self.said
        self._said, self._said_at = stats, self._owner.clock.monotonic() - stats.get("age", 0.0)
        return {"pid": None, "age": 0.0, **stats}

    @property
    def said(self) -> Mapping[str, Any]:
        """What it said last."""
        said = self._said
        if said is _NOTHING_SAID:
            return said
        gone = self.ended or self.state is ReplicaState.STOPPED
        runner = None if gone else said["runner"]
        return {"pid": None, **said, "runner": runner, "age": self._owner.clock.monotonic() - self._said_at}

    def counts(self) -> Mapping[str, Any]:
        """Its recorders' snapshots."""
        counts: Mapping[str, Any] = self.stats()["recorders"]
        return counts

    @property
    def error(self) -> str | None:
        """Why it is not well, for a status."""
        cause = "" if self.cause is None else "".join(traceback.format_exception(self.cause))
        return "\n".join(filter(None, (self.reason, cause))) or None

    @property
    def missing(self) -> str:
        """Why its place is empty, in one line."""
        return self.reason or ("" if self.cause is None else text_of(self.cause))


class ReplicaSet:
    """
    The replicas of a service, and who of them gets calls.

    All methods are safe from any thread.

    Attributes:
        clock: Its time.
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
        on_open: Callable[[], list[Report]],
        spawn: Callable[[Callable[[], None], str], None],
        publication: Publication | None = None,
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
            on_open: Told under `condition` when another replica gets calls; gives what is to be told afterwards.
            spawn: `spawn(body, what)` runs *body* in a thread that the service waits for before it has stopped.
            publication: Tells other processes of the service; None if they cannot call it.
        """
        self.condition = threading.Condition()
        self.members: tuple[Member, ...] = ()
        self.kept: Mapping[str, Any] = {}
        self._composition = composition
        self._name = composition.name
        self._router = router
        self._watchers = watchers
        self.clock = clock
        self._find_service = find_service
        self._wanted = wanted
        self._on_open = on_open
        self._spawn = spawn
        self._replacer: Replacer | None = None  # made when the first replica ends; guarded by condition, as the next
        self._replaced = 0  # replicas that took the place of others
        self._publication = publication
        self._target: Target | None = None  # guarded by starting
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
        close_first()
        return members

    def _make(self, indices: Sequence[int], *, held: bool) -> tuple[Member, ...]:
        made = []
        with self.condition:
            self._check_wanted()
            for index in indices:
                member = self._member(index)
                member.held = held
                made.append(member)
            self._set_members((*self.members, *made))
        return tuple(made)

    def _member(self, index: int, seniority: int = 0) -> Member:
        generation = self._generations.get(index, 0)
        self._generations[index] = generation + 1
        spec = self._composition.spec(index, generation)
        if self._publication is not None:
            spec = spec._replace(find_service=self._publication.find_service)
        return Member(self, spec, self._router.lane(spec.id, index, seniority), self._find_service)

    def _set_members(self, members: Sequence[Member]) -> None:
        self.members = tuple(sorted(members, key=lambda each: each.spec.index))

    def _check_wanted(self) -> None:
        if not self._wanted():
            msg = f"service '{self._name}' was stopped before it was ready"
            raise DeployError(msg, service=self._name)

    def take_over(self, kept: Kept) -> tuple[Member, ...]:
        """
        Have the replicas that an earlier process left; returns at once, and each gets calls as soon as it is ready.

        Raises:
            DeployError: The service was stopped.
            ClusterUnavailableError: It cannot be said that they are here now.
        """
        target: Any = self._made_target()
        with self.starting:
            if self._publication is not None:
                self._publication.announce(0 if kept.listing is None else kept.listing.version)
            with self.condition:
                self._check_wanted()
                members = []
                for each in kept.replicas:
                    self._generations[each.index] = each.generation
                    members.append(self._member(each.index))
                self._set_members((*self.members, *members))
            for member, each in zip(members, kept.replicas, strict=True):
                self._have(member, target.adopt(member.spec, each, member, self.clock))
        return tuple(members)

    def directory(self, environment: str) -> Directory:
        """The target's directory of that environment, by ID; only for a target that is `reachable`."""
        target: Any = self._made_target()
        keeper = self.keeper
        found: Directory = target.directory(environment if keeper is None else keeper.environment)
        return found

    @property
    def keeper(self) -> Keeper | None:
        """What keeps the service when this process ends; None if it ends with it."""
        if self._publication is None or "detaches" not in self._composition.target.registration.capabilities:
            return None
        target: Any = self._made_target()
        home = self._publication.home
        found: Keeper | None = target.keeper(home.id, home.name)
        return found

    def _made_target(self) -> Target:
        with self.starting:
            if self._target is None:
                self._target = self._composition.target.create()
            return self._target

    def _launch(self, members: Sequence[Member]) -> None:
        target = self._made_target()
        places: list[Placed] = []
        for member, place in zip(members, target.place([member.spec for member in members]), strict=True):
            if isinstance(place, Refused):
                msg = f"replica {member.id} cannot be placed: {place}"
                raise DeployError(msg, service=self._name, replica=member.id)
            places.append(place)
        if self._publication is not None:
            self._publication.announce()
        for member, placed in zip(members, places, strict=True):
            self._start_one(member, placed)

    def _start_one(self, member: Member, place: Placed) -> None:
        self._have(member, self._target.start(member.spec, place, member, self.clock))  # type: ignore[union-attr] # it was asked to place it

    def _have(self, member: Member, replica: Replica) -> None:
        with self.condition:
            member.replica = replica
            self.condition.notify_all()
        self._open_if_ready(member)

    def wait_started(self, member: Member, limit: float) -> Replica | None:
        """The target's side of *member*, which may report that it is ready before the target has handed it over."""
        with self.condition:
            self.condition.wait_for(lambda: member.replica is not None, limit)
            return member.replica

    def wait(self, members: Sequence[Member], limit: float, over: Callable[[], bool] = lambda: False) -> None:
        """
        Wait until all of *members* are ready.

        Args:
            members: Which.
            limit: Seconds.
            over: Whether they have been so at the same time, whatever became of them since; asked under `condition`.

        Raises:
            DeployError: One failed (raised from its constructor's error) or was not ready in time, or the service was
                stopped.
        """
        until = self.clock.monotonic() + limit
        with self.condition:
            while not over() and (
                late := [each for each in members if not (each.in_service or (each.held and each.up))]
            ):
                failed = next((each for each in members if each.state is ReplicaState.FAILED), None)
                if failed is not None:
                    raise self._constructor_failed(failed) from failed.cause
                self._check_wanted()
                remaining = until - self.clock.monotonic()
                if remaining <= 0:
                    break
                self.condition.wait(min(remaining, threading.TIMEOUT_MAX))
            else:
                return
        raise self.not_ready(late, limit)

    def not_ready(self, late: Sequence[Member], limit: float) -> DeployError:
        """
        The error for replicas that are not ready after *limit* seconds, with what is known of each.

        They are asked for it, which may take two seconds; never under `condition`.
        """
        progress = self._asked(late, Member.progress, 2 * _ANSWER_S)  # a cluster that is silent can be said, too
        together: dict[str, list[str]] = {}
        for member in late:
            together.setdefault(progress.get(member, "it does not say how far it has got"), []).append(member.id)
        found = ". ".join(
            f"{', '.join(ids)} not ready after {limit:g} s; {why or _BEING_BUILT}" for why, ids in together.items()
        )
        replica = late[0].id if len(late) == 1 else None
        return DeployError(f"service '{self._name}': {found}", service=self._name, replica=replica)

    def _constructor_failed(self, member: Member) -> DeployError:
        cause = member.cause
        where = raised_at(cause)
        where = f" ({where})" if where else ""
        hints = "".join(f"; {note}" for note in getattr(cause, "__notes__", ()))
        who = f"service '{self._name}' replica {member.spec.index}"
        msg = f"while constructing {who}: {text_of(cause)}{where}{hints}"
        return DeployError(msg, service=self._name, replica=member.id)

    def admit(self, members: Sequence[Member]) -> None:
        """Send calls to *members*, which were held back until now; from now on they are replaced when they end."""
        for member in members:
            with self.condition:
                member.held = False
            self._open_if_ready(member)
        with self.condition:
            reports = self.supervise(members)
        self.tell(reports)

    def supervise(self, members: Sequence[Member]) -> list[Report]:
        """Replace *members* when they end, or have just ended; under `condition`. Gives what is to be told then."""
        reports: list[Report] = []
        for member in members:
            member.care = Care.SUPERVISOR
            reports += self._look_after(member)
        return reports

    def _open_if_ready(self, member: Member) -> None:
        """Send calls to a replica once it is ready and known here; either may come first."""
        with self.condition:
            ready = member.up and member.replica is not None
            if not ready or member.held or member.lane.slots or not self._wanted():
                return
            self._router.open(member.lane, member.replica)  # type: ignore[arg-type] # not None if ready
            reports = self._on_open()
            self.condition.notify_all()
        self.tell(reports)

    # -- what replicas and monitors report ---------------------------------------------------------------------------

    def changed(self, member: Member, state: ReplicaState, cause: BaseException | None) -> None:
        """A replica reports its state."""
        with self.condition:
            # Leaving already: such as when a constructor that nobody waited for has ended. Or it has ended already.
            if (
                member.state is ReplicaState.STOPPED
                or member.ended
                or (member.state is ReplicaState.DRAINING and state is not ReplicaState.FAILED)
            ):
                return
            member.state = state
            member.cause = cause
            reports: list[Report] = [(f"replica_{state}", "" if cause is None else text_of(cause), member.id)]
            if state is ReplicaState.READY:
                member.been_ready = True
            reports += self._look_after(member)
            self.condition.notify_all()
        self.tell(reports)
        if state is ReplicaState.READY:
            self._open_if_ready(member)
        elif state is ReplicaState.FAILED:
            self._router.close_lane(member.lane)  # it may have been opened since the router was told

    def lost(self, member: Member, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        """A replica died: its calls move on or end, and without hope for another one those that wait end too."""
        self.changed(member, ReplicaState.FAILED, cause)  # first: whoever is told of it may look
        self._router.lost(member.lane, not_started, maybe, cause)
        self.refuse_if_hopeless(member)

    def refuse_if_hopeless(self, last: Member) -> None:
        """Refuse calls if there is no replica and none is coming; *last* is the one that ended last."""
        with self.condition:
            if self._wanted() and any(member.is_coming for member in self.members):
                return
            looping = next((each for each in self.members if each.state is ReplicaState.CRASH_LOOP), None)
        if looping is None:
            what = f"{last.id} died ({last.missing})"
        else:
            what = (
                f"{looping.id} is in a crash loop and not replaced any more: {looping.missing}. Mend what it says, "
                f"then call `restart('{self._name}')`"
            )
        msg = f"service '{self._name}' has no replica left: {what}"
        self._router.unavailable(lambda: NoReplicaError(msg, service=self._name))

    def refused(self, member: Member, work: Any) -> None:
        """A replica had no slot for *work*: it waits again."""
        self._router.refused(member.lane, work)

    def ahead(self, member: Member, call: Call, most: int) -> Sequence[Call]:
        """A replica can run more in the slot of *call*."""
        return self._router.ahead(member.lane, call, most)

    def returned(self, calls: Sequence[Call]) -> None:
        """A replica gives back what it was sent ahead."""
        self._router.returned(calls)

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
            reports: list[Report] = [(f"replica_{state}", reason, member.id)]
            reports += self._look_after(member)
            self.condition.notify_all()
        self.tell(reports)

    # -- what takes the place of those that ended --------------------------------------------------------------------

    def _look_after(self, member: Member) -> list[Report]:
        """Have a replica of the service replaced if it has to be; under `condition`. What is to be told afterwards."""
        if member.care is not Care.SUPERVISOR or member.heir is not None or not self._wanted():
            return []
        if member.state is ReplicaState.READY:
            if self._replacer is not None:
                self._replacer.ready(member)
            return []
        capabilities = self._composition.target.registration.capabilities
        unhealthy = member.state is ReplicaState.UNHEALTHY and "replaces_unhealthy" in capabilities
        if member.state is not ReplicaState.FAILED and not unhealthy:
            return []
        if self._replacer is None:
            from sage_plugins.deployment.succession import Replacer  # most services never need it

            self._replacer = Replacer(self, self._composition.config, self.clock, self._spawn)
        return self._replacer.ended(member)

    def tell(self, reports: Sequence[Report]) -> None:
        """Tell the monitors; never under `condition`, which they may ask for while they hold a lock of their own."""
        for kind, reason, id in reports:
            if kind == "crash_loop":
                logging.getLogger("sage_plugins").error("service '%s': replica %s %s", self._name, id, reason)
            self._watchers.tell(kind, reason, id)

    def succeed(self, old: Member, *, beside: bool) -> Member | Refused | None:
        """
        Start a replica in the place of *old*.

        Args:
            old: It ended, or with *beside* it goes on until its heir is ready and the caller admits that.
            beside: Whether the old one stays for now; the new one gets no calls then, and the caller waits for it.

        Returns:
            The new one, which may have failed already; or why it cannot be placed; or None if nothing is to take the
            place of *old* any more.
        """
        with self.starting:
            with self.condition:
                if not self.may_succeed(old, beside=beside):
                    return None
                spec = self._composition.spec(old.spec.index, self._generations[old.spec.index])
            place = self._place(spec)
            if isinstance(place, Refused):
                return place
            counts = {} if beside else old.counts()
            with self.condition:
                if not self.may_succeed(old, beside=beside):  # it may take long to place a replica
                    return None
                self._replaced += 1
                member = self._member(old.spec.index, self._replaced)
                if beside:
                    member.held = True
                    old.heir = member
                    self._set_members((*self.members, member))
                else:
                    member.care, old.care = Care.SUPERVISOR, Care.NOBODY
                    self.kept = self._watchers.merge([self.kept, counts])
                    self._set_members([member if each is old else each for each in self.members])
                self._replacer.starting(member)  # type: ignore[union-attr] # it asks for this
            try:
                self._start_one(member, place)
            except Exception as error:  # noqa: BLE001 - whatever the target raises, the next start may go well
                self.changed(member, ReplicaState.FAILED, error)
            return member

    def may_succeed(self, old: Member, *, beside: bool) -> bool:
        """Whether a replica is still to be started in the place of *old*, or *beside* it; under `condition`."""
        due = ReplicaState.UNHEALTHY if beside else ReplicaState.FAILED
        return old.care is Care.SUPERVISOR and old.heir is None and old.state is due and self._wanted()

    def _place(self, spec: ReplicaSpec) -> Placed | Refused:
        try:
            (place,) = self._target.place([spec])  # type: ignore[union-attr] # other replicas have been started
        except Exception as error:  # noqa: BLE001 - a target that cannot answer now may do so later
            target = self._composition.target
            return Refused(f"target '{target.id}' from {target.source} failed to place it: {text_of(error)}")
        return place

    def inherit(self, old: Member, heir: Member) -> bool:
        """
        Let *heir* take the place of *old*, beside which it was started.

        Returns:
            Whether it may: the place may have been given to another one, or to none, meanwhile.
        """
        with self.condition:
            if old.heir is not heir or old.care is not Care.SUPERVISOR or not self._wanted():
                return False
            old.care = Care.NOBODY
            heir.held = False
            reports = self.supervise([heir])  # in one step: who scales meanwhile finds one of the two, and not both
        self._open_if_ready(heir)
        self.tell(reports)
        return True

    def disinherit(self, old: Member, heir: object) -> None:
        """*heir* will not take the place of *old*: that is looked after as before."""
        with self.condition:
            if old.heir is not heir:
                return
            old.heir = None
            reports = self._look_after(old)
        self.tell(reports)

    def claim(self, index: int) -> tuple[Member, object] | None:
        """
        Keep the set from replacing the replica at *index*, in whose place the caller starts another one.

        Returns:
            The replica, and what to hand to `disinherit` if nothing comes of it; None if there is none any more.
        """
        with self.condition:
            member = next((each for each in self.places if each.spec.index == index), None)
            if member is None:
                return None
            heir = member.heir = object()
            self._let_go(member)
        return member, heir

    def retire(self, keep: int) -> tuple[Member, ...]:
        """
        Take all but *keep* of the service's replicas out of the care of the set; first those that do not serve.

        Returns:
            Those that are to leave now.
        """
        with self.condition:
            retired = self.places[keep:]
            for member in retired:
                member.care = Care.NOBODY
                self._let_go(member)
        return retired

    def _let_go(self, member: Member) -> None:
        if self._replacer is not None:
            self._replacer.let_go(member)

    @property
    def places(self) -> tuple[Member, ...]:
        """
        The service's replicas, one for each place: those that are up by index, then those that are not.
        """
        mine = [each for each in self.members if each.care is Care.SUPERVISOR]
        return tuple(sorted(mine, key=lambda each: not each.up))

    def bury(self, member: Member) -> None:
        """Have the target let go of a replica that ended: if its constructor failed, its workers may live on."""
        if member.replica is not None:
            member.replica.stop(0)
            member.replica.stop(_LAST_GRACE_S)

    def vacate(self, member: Member, limit: float) -> None:
        """Send no more calls to *member*, give those that it has *limit* seconds, and stop it."""
        until = self.clock.monotonic() + limit
        idle = threading.Event()
        self._router.retire(member.lane, idle.set)
        idle.wait(limit)
        self._vacate([member], until - self.clock.monotonic())
        self.bury(member)

    def end_replacing(self) -> None:
        """Start nothing any more in the place of replicas that end; under `condition`."""
        if self._replacer is not None:
            self._replacer.close()

    # -- looking on --------------------------------------------------------------------------------------------------

    def stats(self, members: Sequence[Member]) -> list[Mapping[str, Any]]:
        """
        What each of *members* says of itself, see `Member.stats`; waits for all of them together no more than a second.
        """
        if "in_process" in self._composition.target.registration.capabilities:  # asking is looking, then
            return [member.stats() for member in members]
        answers = self._asked(members, Member.stats, _ANSWER_S)
        return [answers.get(member) or member.said for member in members]

    def _asked(
        self, members: Sequence[Member], question: Callable[[Member], _Answer], limit: float
    ) -> Mapping[Member, _Answer]:
        """The answers of those who answer within *limit* seconds, which are for all of them together."""
        asked = {member: future_of(partial(question, member), f"{member.id}-asked") for member in members}
        done, _ = wait_for(asked.values(), limit)
        return {
            member: answer.result() for member, answer in asked.items() if answer in done and not answer.exception()
        }

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
                member.care = Care.NOBODY
                ended = member.ended
                if not ended:
                    member.state = ReplicaState.DRAINING
            if not ended:
                self._watchers.tell("replica_draining", reason, member.id)
            event = threading.Event()
            self._router.retire(member.lane, event.set)
            idle.append(event)

        def finish(limit: float) -> None:
            until = self.clock.monotonic() + limit
            for event in idle:
                event.wait(max(0.0, until - self.clock.monotonic()))
            self._vacate(members, until - self.clock.monotonic())
            self._stop(members, max(until - self.clock.monotonic(), _LAST_GRACE_S))
            self._forget(members)

        return finish

    def discard(self, members: Sequence[Member]) -> None:
        """Stop *members*, which have not served yet, and forget them."""
        self._stop(members, _LAST_GRACE_S)
        self._forget(members)
        if self._replacer is not None and members:  # they may have been the last hope when another one was given up
            self.refuse_if_hopeless(members[-1])

    def _forget(self, members: Sequence[Member]) -> None:
        counts = [member.counts() for member in members]
        with self.condition:
            self.kept = self._watchers.merge([self.kept, *counts])
            self.members = tuple(each for each in self.members if each not in members)

    def vacate_all(self, limit: float) -> None:
        """Have the replicas take no calls of other processes, and wait at most *limit* seconds for those they have."""
        self._vacate(self.members, limit)

    def _vacate(self, members: Sequence[Member], limit: float) -> None:
        publication = self._publication
        up = [each for each in members if each.replica is not None and (each.up or each.state is ReplicaState.DRAINING)]
        if publication is None or not up:
            return
        until = self.clock.monotonic() + limit
        publication.wait_seen(limit)  # who has not heard of it would send calls to a process that has ended
        waits = [each.replica.vacate() for each in up]  # type: ignore[union-attr] # as a `reachable` target promises
        for wait in waits:
            wait(max(0.0, until - self.clock.monotonic()))

    def leave_all(self) -> None:
        """Have the replicas go on without this process, and stop those that nobody has waited for; close the target."""
        staying = [each for each in self.members if each.been_ready and not each.ended and each.replica is not None]
        self._stop([each for each in self.members if each not in staying], _LAST_GRACE_S)
        for member in staying:
            replica: Any = member.replica
            replica.leave()
            with self.condition:
                member.state = ReplicaState.STOPPED
                self.condition.notify_all()
            self._watchers.tell("replica_left", "it goes on without this process", member.id)
        if self._target is not None:
            self._target.close()

    def stop_all(self, grace: float) -> None:
        """Stop all replicas, in reverse order, within *grace* seconds together, but at least one; close the target."""
        self._stop(self.members[::-1], max(grace, _LAST_GRACE_S))
        if self._target is not None:
            self._target.close()

    def _stop(self, members: Sequence[Member], grace: float) -> None:
        until = self.clock.monotonic() + grace
        with self.condition:
            for member in members:
                if member.up:  # nobody asks it how it is while its stop hooks run
                    member.state = ReplicaState.DRAINING
        with self.starting:  # one that is being started this moment must be there to be stopped
            started = [(member, member.replica) for member in members if member.replica is not None]
        # Asked first and waited for afterwards, so that one that is stuck takes no time from the others.
        for _, replica in started:
            replica.stop(0)
        for member, replica in started:
            left = replica.stop(max(0.0, until - self.clock.monotonic()))
            with self.condition:
                first = member.state is not ReplicaState.STOPPED
                member.state = ReplicaState.STOPPED
                self.condition.notify_all()
            if first:
                self._watchers.tell("replica_stopped", f"{left} calls still run" if left else "", member.id)


def raised_at(error: BaseException | None) -> str:
    """
    Where *error* was raised, as `file:line`: the innermost line that is not in one of our packages; "" if all are.

    Packages are told by their names, because each distribution of ours may be installed in a folder of its own.
    """
    where = ""
    trace = None if error is None else error.__traceback__
    while trace is not None:
        package = str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0]
        if package != "sage_plugins" and not package.startswith("sage_deploy_"):
            where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return where
