"""The replicas of one service: which there are, and what is kept of those that left."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Protocol

from sage_plugins.deployment.replicas.member import ManagedBy
from sage_plugins.errors import DeployError, NoReplicaError
from sage_plugins.values import ReplicaState

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping, Sequence

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.deployment.life import ServiceLife
    from sage_plugins.deployment.monitors import Watchers
    from sage_plugins.deployment.replicas.member import Member, Report
    from sage_plugins.deployment.replicas.recycling import Recycler
    from sage_plugins.deployment.scaling.elastic import Elastic
    from sage_plugins.interfaces import Reach, Replica
    from sage_plugins.planning.composition import Composition
    from sage_plugins.routing.lane import Lane
    from sage_plugins.routing.router import Router

__all__ = ["ReplicaSet", "Supervision"]


class Supervision(Protocol):
    """Who decides what becomes of a replica: `ReplicaSupervisor`."""

    @property
    def replaced(self) -> int:
        """How many replicas were started in the place of one that had ended, was unhealthy or was recycled."""

    @property
    def replacements(self) -> Counter[str]:
        """The same by why that one had to go: `died`, `start_failed`, `unhealthy` or `recycled`."""

    def changed(self, member: Member, state: ReplicaState, cause: BaseException | None) -> None:
        """Its target reports its state."""

    def lost(self, member: Member, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        """It died with these calls."""

    def mark(self, member: Member, state: ReplicaState, reason: str) -> None:
        """A monitor says how it is."""

    def opened(self) -> list[Report]:
        """Another replica gets calls; under `condition`. Gives what is to be told afterwards."""


class ReplicaSet:
    """
    The replicas of a service; passes on what they report.

    All methods are safe from any thread.

    Attributes:
        composition: What was decided for the service.
        next_composition: What is being rolled out in its place; None if nothing is. Guarded by `condition`.
        name: Name of the service.
        router: Sends the calls.
        watchers: Its monitors.
        clock: Its time.
        life: What has become of the service.
        reach: How other processes call the service; given before the first replica is made.
        supervision: Decides what becomes of a replica; given before the first one is made.
        elastic: Decides how many there are; None if their number is fixed.
        recycler: Replaces those that have reached a limit of `recycle`; None if there is none.
        starting: Held while replicas are being started: whoever stops them all waits until all is there that must be
            stopped.
        members: Every replica that there is, by index, those that start or leave included; replaced, never changed.
        counts_of_left: What the replicas that left have counted, {monitor id: snapshot}; replaced together with
            `members`.
    """

    supervision: Supervision
    reach: Reach
    elastic: Elastic | None
    recycler: Recycler | None

    def __init__(
        self,
        composition: Composition,
        router: Router,
        watchers: Watchers,
        clock: Clock,
        life: ServiceLife,
    ) -> None:
        """Make an empty set; the arguments are the attributes of these names."""
        self.composition = composition
        self.next_composition: Composition | None = None
        self.name = composition.name
        self.router = router
        self.watchers = watchers
        self.clock = clock
        self.life = life
        self.elastic = None
        self.recycler = None
        self.starting = threading.RLock()
        self.members: tuple[Member, ...] = ()  # guarded by condition, as the next
        self.counts_of_left: Mapping[str, Any] = {}
        router.coming = lambda: self.coming

    @property
    def condition(self) -> threading.Condition:
        """Told of every change; guards the members and their states."""
        return self.life.condition

    @property
    def wanted(self) -> bool:
        """Whether the service has been started and not been stopped; under `condition`."""
        return self.life.wanted

    def check_wanted(self) -> None:
        """
        See that the service was not stopped; under `condition`.

        Raises:
            DeployError: It was.
        """
        if not self.wanted:
            msg = f"service '{self.name}' was stopped before it was ready"
            raise DeployError(msg, service=self.name)

    # -- which there are ---------------------------------------------------------------------------------------------

    @property
    def places(self) -> tuple[Member, ...]:
        """
        The service's replicas, one for each place: those that are up by index, then those that are not.
        """
        mine = [each for each in self.members if each.managed_by is ManagedBy.SUPERVISOR]
        return tuple(sorted(mine, key=lambda each: not each.up))

    def version(self, *, newer: bool) -> Composition:
        """What its replicas are made of, or those of the version that is being rolled out."""
        coming = self.next_composition
        return coming if newer and coming is not None else self.composition

    @property
    def serving(self) -> list[Member]:
        """Those that have started and were not told to leave."""
        return [member for member in self.members if member.up]

    @property
    def coming(self) -> list[Lane]:
        """The lanes of replicas that get no calls yet and may soon; what takes the place of one counts as it."""
        return [member.lane for member in self.members if member.is_coming and not member.in_service]

    @property
    def state(self) -> str:
        """
        `pending`, `starting`, `ready`, `crash_loop`, `draining` or `stopped`.

        In a crash loop is a service if one of its replicas is; the others may serve.
        """
        state = self.life.state
        if self.life.refuses_outsiders and state in (ReplicaState.STARTING, ReplicaState.READY):
            return str(ReplicaState.DRAINING)
        if state is ReplicaState.READY and any(member.state is ReplicaState.CRASH_LOOP for member in self.members):
            return str(ReplicaState.CRASH_LOOP)
        return str(state)

    def add(self, members: Sequence[Member]) -> None:
        """There are *members* too; under `condition`."""
        self.members = tuple(sorted((*self.members, *members), key=lambda each: each.spec.index))

    def forget(self, members: Sequence[Member]) -> None:
        """*members* have left; what they have counted is kept. They are asked for it, so not under `condition`."""
        counts = [member.counts() for member in members]
        with self.condition:
            self.drop(members, counts)

    def drop(self, members: Sequence[Member], counts: Sequence[Mapping[str, Any]]) -> None:
        """*members* have left, having counted *counts*; under `condition`."""
        self.counts_of_left = self.watchers.merge([self.counts_of_left, *counts])
        gone = frozenset(members)
        self.members = tuple(each for each in self.members if each not in gone)

    def refuse_if_hopeless(self, last: Member) -> None:
        """Refuse calls if there is no replica and none is coming; *last* is the one that ended last."""
        with self.condition:
            if self.wanted and (self.next_composition is not None or any(each.is_coming for each in self.members)):
                return
            if self.wanted and self.elastic is not None and self.elastic.asleep:
                return
            looping = next((each for each in self.members if each.state is ReplicaState.CRASH_LOOP), None)
        if looping is None:
            what = f"{last.id} died ({last.missing})"
        else:
            what = (
                f"{looping.id} is in a crash loop and not replaced any more: {looping.missing}. Fix that error, "
                f"then call `restart('{self.name}')`"
            )
        msg = f"service '{self.name}' has no replica left: {what}"
        self.router.unavailable(lambda: NoReplicaError(msg, service=self.name))

    # -- what they report --------------------------------------------------------------------------------------------

    def changed(self, member: Member, state: ReplicaState, cause: BaseException | None) -> None:
        """A replica reports its state."""
        self.supervision.changed(member, state, cause)

    def remark(self, member: Member, text: str) -> None:
        """A replica works, but not as well as it could."""
        self.watchers.tell("replica_remark", text, member.id)

    def lost(self, member: Member, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        """A replica died."""
        self.supervision.lost(member, not_started, maybe, cause)

    def mark(self, member: Member, state: ReplicaState, reason: str) -> None:
        """A monitor says how a replica is; see `interfaces.WatchedReplica.mark`."""
        self.supervision.mark(member, state, reason)

    def wait_started(self, member: Member, limit: float) -> Replica | None:
        """The target's side of *member*, which may report that it is ready before the target has handed it over."""
        with self.condition:
            self.condition.wait_for(lambda: member.replica is not None, limit)
            return member.replica

    def tell(self, reports: Sequence[Report]) -> None:
        """Tell the monitors; never under `condition`, which they may ask for while they hold a lock of their own."""
        for kind, reason, id in reports:
            if kind == "crash_loop":
                logging.getLogger("sage_plugins").error("service '%s': replica %s %s", self.name, id, reason)
            self.watchers.tell(kind, reason, id)
