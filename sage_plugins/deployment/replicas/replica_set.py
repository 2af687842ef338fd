"""Holds the replicas of one service, and the counts of replicas that have left."""

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
    from sage_plugins.deployment.lifecycle import ServiceLifecycle
    from sage_plugins.deployment.monitors import ServiceMonitors
    from sage_plugins.deployment.replicas.member import Member, Report
    from sage_plugins.deployment.replicas.recycling import Recycler
    from sage_plugins.deployment.scaling.service_scaler import ServiceScaler
    from sage_plugins.interfaces import Reach, Replica
    from sage_plugins.planning.composition import Composition
    from sage_plugins.routing.lane import Lane
    from sage_plugins.routing.router import Router

__all__ = ["ReplicaSet", "Supervision"]


class Supervision(Protocol):
    """Handles what replicas report; implemented by `ReplicaSupervisor`."""

    @property
    def replacement_count(self) -> int:
        """Number of replacements: replicas started for one that had ended, was unhealthy or was recycled."""

    @property
    def replacements(self) -> Counter[str]:
        """The same by reason: `died`, `start_failed`, `unhealthy` or `recycled`."""

    def changed(self, member: Member, state: ReplicaState, cause: BaseException | None) -> None:
        """The target reports the state of *member*."""

    def lost(self, member: Member, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        """*member* died with these calls."""

    def mark(self, member: Member, state: ReplicaState, reason: str) -> None:
        """A monitor marks *member*."""

    def opened(self) -> list[Report]:
        """Another replica gets calls. Under `condition`. Returns events to send afterwards."""


class ReplicaSet:
    """
    One service's replicas. Passes on their reports.

    Thread-safe.

    Attributes:
        composition: The service's composition.
        next_composition: The composition that is being rolled out; None if there is no rollout. Guarded by `condition`.
        name: The service's name.
        router: Sends the calls.
        monitors: The service's monitors.
        clock: The service's clock.
        lifecycle: The service's state.
        reach: How other processes call the service; set before the first replica is made.
        supervision: Handles what replicas report; set before the first replica is made.
        scaler: The autoscaling; None if the number of replicas is fixed.
        recycler: Replaces replicas at the limits of `recycle`; None if there are no limits.
        starting: Lock, held while replicas are being started. A thread that stops all replicas takes it too, so that it
            misses none.
        members: All replicas by index, including those that start or leave. Replaced, never changed.
        counts_of_departed: Counts of the replicas that have left, {monitor id: snapshot}. Replaced together with
            `members`.
    """

    supervision: Supervision
    reach: Reach
    scaler: ServiceScaler | None
    recycler: Recycler | None

    def __init__(
        self,
        composition: Composition,
        router: Router,
        monitors: ServiceMonitors,
        clock: Clock,
        lifecycle: ServiceLifecycle,
    ) -> None:
        self.composition = composition
        self.next_composition: Composition | None = None
        self.name = composition.name
        self.router = router
        self.monitors = monitors
        self.clock = clock
        self.lifecycle = lifecycle
        self.scaler = None
        self.recycler = None
        self.starting = threading.RLock()
        self.members: tuple[Member, ...] = ()  # guarded by condition, as the next one
        self.counts_of_departed: Mapping[str, Any] = {}
        router.coming = lambda: self.coming

    @property
    def condition(self) -> threading.Condition:
        """The service's condition: guards the members and their states, and is notified of each change."""
        return self.lifecycle.condition

    @property
    def wanted(self) -> bool:
        """Whether the service has been started and not stopped; under `condition`."""
        return self.lifecycle.wanted

    def check_wanted(self) -> None:
        """
        Check that the service was not stopped; under `condition`.

        Raises:
            DeployError: The service was stopped.
        """
        if not self.wanted:
            msg = f"service '{self.name}' was stopped before it was ready"
            raise DeployError(msg, service=self.name)

    # -- the replicas ------------------------------------------------------------------------------------------------

    @property
    def places(self) -> tuple[Member, ...]:
        """The service's replicas, one for each place. Replicas that are up come first; each group is by index."""
        mine = [each for each in self.members if each.managed_by is ManagedBy.SUPERVISOR]
        return tuple(sorted(mine, key=lambda each: not each.up))

    def version(self, *, newer: bool) -> Composition:
        """Return the composition of the replicas; with *newer*, of those that are being rolled out."""
        coming = self.next_composition
        return coming if newer and coming is not None else self.composition

    @property
    def serving(self) -> list[Member]:
        """The replicas that have started and were not told to leave."""
        return [member for member in self.members if member.up]

    @property
    def coming(self) -> list[Lane]:
        """The lanes of replicas that get no calls yet but may soon, themselves or through their replacements."""
        return [member.lane for member in self.members if member.is_coming and not member.in_service]

    @property
    def state(self) -> str:
        """
        `pending`, `starting`, `ready`, `crash_loop`, `draining` or `stopped`.

        `crash_loop` means that at least one replica is in a crash loop; the others may serve.
        """
        state = self.lifecycle.state
        if self.lifecycle.refuses_outsiders and state in (ReplicaState.STARTING, ReplicaState.READY):
            return str(ReplicaState.DRAINING)
        if state is ReplicaState.READY and any(member.state is ReplicaState.CRASH_LOOP for member in self.members):
            return str(ReplicaState.CRASH_LOOP)
        return str(state)

    def add(self, members: Sequence[Member]) -> None:
        """Add *members*; under `condition`."""
        self.members = tuple(sorted((*self.members, *members), key=lambda each: each.spec.index))

    def forget(self, members: Sequence[Member]) -> None:
        """Remove *members* and keep their counts. Asks them for these, so never call it under `condition`."""
        counts = [member.counts() for member in members]
        with self.condition:
            self.drop(members, counts)

    def drop(self, members: Sequence[Member], counts: Sequence[Mapping[str, Any]]) -> None:
        """Remove *members* and keep their *counts*; under `condition`."""
        self.counts_of_departed = self.monitors.merge([self.counts_of_departed, *counts])
        gone = frozenset(members)
        self.members = tuple(each for each in self.members if each not in gone)

    def refuse_if_hopeless(self, last: Member) -> None:
        """Refuse calls if there is no replica and none is coming. *last* is the replica that ended last."""
        with self.condition:
            if self.wanted and (self.next_composition is not None or any(each.is_coming for each in self.members)):
                return
            if self.wanted and self.scaler is not None and self.scaler.asleep:
                return
            looping = next((each for each in self.members if each.state is ReplicaState.CRASH_LOOP), None)
        if looping is None:
            what = f"{last.id} died ({last.reason_line})"
        else:
            what = (
                f"{looping.id} is in a crash loop and not replaced any more: {looping.reason_line}. Fix that error, "
                f"then call `restart('{self.name}')`"
            )
        msg = f"service '{self.name}' has no replica left: {what}"
        self.router.unavailable(lambda: NoReplicaError(msg, service=self.name))

    # -- reports -----------------------------------------------------------------------------------------------------

    def changed(self, member: Member, state: ReplicaState, cause: BaseException | None) -> None:
        """As `Supervision.changed`."""
        self.supervision.changed(member, state, cause)

    def remark(self, member: Member, text: str) -> None:
        """Report that a replica works, but not as well as it could."""
        self.monitors.tell("replica_remark", text, member.id)

    def lost(self, member: Member, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        """As `Supervision.lost`."""
        self.supervision.lost(member, not_started, maybe, cause)

    def mark(self, member: Member, state: ReplicaState, reason: str) -> None:
        """As `Supervision.mark`."""
        self.supervision.mark(member, state, reason)

    def wait_started(self, member: Member, limit: float) -> Replica | None:
        """
        Wait at most *limit* seconds for the target's side of *member*; None if it does not come.

        A replica may report that it is ready before the target's `start` has returned it.
        """
        with self.condition:
            self.condition.wait_for(lambda: member.replica is not None, limit)
            return member.replica

    def tell(self, reports: Sequence[Report]) -> None:
        """Send events to the monitors. Never under `condition`: monitors may take it while they hold their own lock."""
        for kind, reason, id in reports:
            if kind == "crash_loop":
                logging.getLogger("sage_plugins").error("service '%s': replica %s %s", self.name, id, reason)
            self.monitors.tell(kind, reason, id)
