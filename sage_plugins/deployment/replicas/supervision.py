"""What becomes of the replicas of one service, and what takes the place of those that end."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from sage_plugins.deployment.replicas.member import ManagedBy
from sage_plugins.errors import DeployError, text_of
from sage_plugins.values import Refused, ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Timer
    from sage_plugins.config.service_config import ServiceDeploymentConfig
    from sage_plugins.deployment.replicas.departure import Departure
    from sage_plugins.deployment.replicas.member import Member, Report
    from sage_plugins.deployment.replicas.replica_set import ReplicaSet
    from sage_plugins.deployment.replicas.starting import Launcher
    from sage_plugins.deployment.replicas.waiting import Readiness
    from sage_plugins.resilience.restarts import CrashLoop, Start, Supervisor

__all__ = ["ReplicaSupervisor"]


class ReplicaSupervisor:
    """
    Decides what becomes of each replica: who is responsible for it, and what takes its place.

    A replica is in the care of whoever starts it and waits for it, then of this, and once it is to leave of nobody. One
    that ends in the care of this is replaced, and so is one that is unhealthy if the target declares that.

    Whoever reports that a replica ended is not kept waiting: it may be the clock's thread, or a target's. What takes
    time is done in a thread, which is there only as long as there is something to do. A service whose replicas all live
    has no supervisor, timer or thread.
    """

    def __init__(
        self,
        replicas: ReplicaSet,
        launcher: Launcher,
        departure: Departure,
        readiness: Readiness,
        spawn: Callable[[Callable[[], None], str], None],
    ) -> None:
        """
        Be told of everything that *replicas* report.

        Args:
            replicas: The service's.
            launcher: Starts them.
            departure: Stops them.
            readiness: Waits for them.
            spawn: `spawn(body, what)` runs *body* in a thread that the service waits for before it has stopped.
        """
        self._replicas = replicas
        self._launcher = launcher
        self._departure = departure
        self._readiness = readiness
        self._spawn = spawn
        self._clock = replicas.clock
        self._replaces_unhealthy = "replaces_unhealthy" in replicas.composition.target.registration.capabilities
        # All are guarded by ReplicaSet.condition.
        self._supervisor: Supervisor | None = None  # made when the first replica ends
        #: Replicas that took the place of others, by why those had to go; `recycled` once there is such a one.
        self.replacements: Counter[str] = Counter(died=0, start_failed=0, unhealthy=0)
        self._due: dict[int, Timer] = {}  # by position: when the next replica is to be started there
        self._late: dict[Member, Timer] = {}  # when one that is being started has to be ready
        self._jobs: list[Callable[[], None]] = []
        self._at_work = False  # whether a thread does the jobs
        self._closed = False
        replicas.supervision = self

    @property
    def _config(self) -> ServiceDeploymentConfig:
        return self._replicas.composition.config

    @property
    def replaced(self) -> int:
        """How many replicas took the place of others."""
        return self.replacements.total()

    # -- what replicas and monitors report ---------------------------------------------------------------------------

    def changed(self, member: Member, state: ReplicaState, cause: BaseException | None) -> None:
        """A replica reports its state."""
        replicas = self._replicas
        if state is ReplicaState.READY and not member.proven:
            member.has_started = True
            self._launcher.prove_if_started(member)
            return
        with replicas.condition:
            if not member.become(state, cause):
                return
            reports: list[Report] = [(f"replica_{state}", "" if cause is None else text_of(cause), member.id)]
            reports += self._look_after(member)
            replicas.condition.notify_all()
        replicas.tell(reports)
        if state is ReplicaState.READY:
            self._launcher.open_if_ready(member)
        elif state is ReplicaState.FAILED:
            replicas.router.close_lane(member.lane)  # it may have been opened since the router was told

    def lost(self, member: Member, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        """A replica died: its calls move on or end, and without hope for another one those that wait end too."""
        member.died = True
        self.changed(member, ReplicaState.FAILED, cause)  # first: whoever is told of it may look
        self._replicas.router.lost(member.lane, not_started, maybe, cause)
        self._replicas.refuse_if_hopeless(member)

    def mark(self, member: Member, state: ReplicaState, reason: str) -> None:
        """A monitor says how a replica is; see `interfaces.WatchedReplica.mark`."""
        state = ReplicaState(state)
        replicas = self._replicas
        with replicas.condition:
            if not member.judge(state, reason):
                return
            replicas.router.avoid(member.lane, avoided=state is not ReplicaState.READY)
            reports: list[Report] = [(f"replica_{state}", reason, member.id)]
            reports += self._look_after(member)
            replicas.condition.notify_all()
        replicas.tell(reports)

    def opened(self) -> list[Report]:
        """Another replica gets calls: with the last of them the service is ready; under `condition`."""
        replicas = self._replicas
        members = replicas.members
        if replicas.life.state is not ReplicaState.STARTING or not all(each.in_service for each in members):
            return []
        replicas.life.become_ready()
        reports = self.supervise(members)
        replicas.reach.ready()
        if replicas.elastic is not None:
            replicas.elastic.start()
        if replicas.recycler is not None:
            replicas.recycler.start()
        return reports

    # -- who is responsible for them ---------------------------------------------------------------------------------

    def supervise(self, members: Sequence[Member]) -> list[Report]:
        """Replace *members* when they end, or have just ended; under `condition`. Gives what is to be told then."""
        reports: list[Report] = []
        for member in members:
            member.managed_by = ManagedBy.SUPERVISOR
            reports += self._look_after(member)
        return reports

    def admit(self, members: Sequence[Member]) -> None:
        """Send calls to *members*, which were held back until now; from now on they are replaced when they end."""
        self._launcher.release(members)
        with self._replicas.condition:
            reports = self.supervise(members)
        self._replicas.tell(reports)

    def claim(self, index: int) -> tuple[Member, object] | None:
        """
        Keep the replica at *index* from being replaced here: the caller starts another one in its place.

        Returns:
            The replica, and what `cancel_replacement` takes if nothing comes of it; None if there is none any more.
        """
        with self._replicas.condition:
            member = next((each for each in self._replicas.places if each.spec.index == index), None)
            if member is None:
                return None
            replacement = member.replacement = object()
            self._let_go(member)
        return member, replacement

    def cancel_replacement(self, old: Member, replacement: object) -> None:
        """*replacement* will not take the place of *old*: that is looked after as before."""
        with self._replicas.condition:
            if old.replacement is not replacement:
                return
            old.replacement = None
            reports = self._look_after(old)
        self._replicas.tell(reports)

    def let_go(self, member: Member) -> None:
        """Replace *member* no more."""
        with self._replicas.condition:
            member.managed_by = ManagedBy.NOBODY
            self._let_go(member)

    def retire(self, keep: int) -> tuple[Member, ...]:
        """
        Replace none but *keep* of the service's replicas any more; those that do not serve go first.

        Returns:
            Those that are to leave now.
        """
        with self._replicas.condition:
            retired = self._replicas.places[keep:]
            for member in retired:
                member.managed_by = ManagedBy.NOBODY
                self._let_go(member)
        return retired

    def close(self) -> None:
        """Start nothing any more; under `condition`. Idempotent."""
        self._closed = True
        if self._replicas.recycler is not None:
            self._replicas.recycler.close()
        for timer in (*self._due.values(), *self._late.values()):
            timer.cancel()

    # -- what is decided; under the condition ------------------------------------------------------------------------

    def _look_after(self, member: Member) -> list[Report]:
        """Have a replica of the service replaced if it has to be; gives what is to be told afterwards."""
        if member.managed_by is not ManagedBy.SUPERVISOR or member.replacement is not None or not self._replicas.wanted:
            return []
        if member.state is ReplicaState.READY:
            self._forget_late(member)
            if self._supervisor is not None:
                self._supervisor.ready(member.spec.index, self._clock.monotonic())
            return []
        unhealthy = member.state is ReplicaState.UNHEALTHY and self._replaces_unhealthy
        return self._ended(member) if unhealthy or member.state is ReplicaState.FAILED else []

    def _ended(self, member: Member) -> list[Report]:
        """It ended, or it is up and has to be replaced."""
        index, now = member.spec.index, self._clock.monotonic()
        self._forget_late(member)
        supervisor = self._made_supervisor()
        decision = supervisor.died(index, now) if member.been_ready else supervisor.failed(index, now)
        reports = self._follow(member, decision)
        if not member.up:
            self._do(lambda: self._departure.clean_up(member))  # after the start, if that is due: it may take a while
        return reports

    def _made_supervisor(self) -> Supervisor:
        if self._supervisor is None:
            from random import Random  # most services never need it

            from sage_plugins.resilience.restarts import Supervisor

            self._supervisor = Supervisor(Random())  # noqa: S311 - no secret
        return self._supervisor

    def _follow(self, member: Member, decision: Start | CrashLoop) -> list[Report]:
        """Do what the supervisor says about the place of *member*; gives what is to be told."""
        from sage_plugins.resilience.restarts import MOST_STARTS, WINDOW_S, CrashLoop

        self._cancel(member.spec.index)
        if isinstance(decision, CrashLoop):
            reason = f"is in a crash loop: {MOST_STARTS} starts in its place within {WINDOW_S:g} s have failed"
            if member.up:
                member.reason = f"{member.reason}; {reason}"
            else:
                member.give_up()
                self._do(lambda: self._replicas.refuse_if_hopeless(member))
            return [("crash_loop", f"{reason}: {member.missing}", member.id)]
        wait = decision.at - self._clock.monotonic()
        if wait <= 0:
            self._do(lambda: self._replace(member))
            return []
        if not self._closed:
            self._due[member.spec.index] = self._clock.call_at(decision.at, lambda: self._is_due(member))
        return [("replacement_delayed", f"another one is started in {wait:.3g} s", member.id)]

    def _let_go(self, member: Member) -> None:
        """Somebody else sees to the place of *member* now, or it is given up: forget what was."""
        self._cancel(member.spec.index)
        if self._supervisor is not None:
            self._supervisor.stopped(member.spec.index)

    def _may_be_replaced(self, old: Member, *, beside: bool) -> bool:
        """Whether a replica is still to be started in the place of *old*, or *beside* it."""
        due = ReplicaState.UNHEALTHY if beside else ReplicaState.FAILED
        return (
            old.managed_by is ManagedBy.SUPERVISOR
            and old.replacement is None
            and old.state is due
            and self._replicas.wanted
        )

    # -- when it is done ---------------------------------------------------------------------------------------------

    def _cancel(self, index: int) -> None:
        timer = self._due.pop(index, None)
        if timer is not None:
            timer.cancel()

    def _forget_late(self, member: Member) -> None:
        timer = self._late.pop(member, None)
        if timer is not None:
            timer.cancel()

    def _is_due(self, member: Member) -> None:
        with self._replicas.condition:
            self._due.pop(member.spec.index, None)
            self._do(lambda: self._replace(member))

    def _is_late(self, member: Member) -> None:
        with self._replicas.condition:
            if self._late.pop(member, None) is not None:
                self._do(lambda: self._give_up(member))

    def _do(self, job: Callable[[], None]) -> None:
        """Have *job* done soon, in the order in which they come; under the condition, without which it is done."""
        if self._closed:
            return
        self._jobs.append(job)
        if not self._at_work:
            self._at_work = True
            self._spawn(self._work, "supervisor")

    def _work(self) -> None:
        while True:
            with self._replicas.condition:
                if not self._jobs:
                    self._at_work = False
                    return
                job = self._jobs.pop(0)
            try:
                job()
            except Exception:  # a target's fault must not keep the other replicas from being replaced
                logging.getLogger("sage_plugins").exception("a replica could not be replaced")

    # -- what is done; not under the condition -----------------------------------------------------------------------

    def _give_up(self, member: Member) -> None:
        """It has not become ready in time: that is a start that failed, and what it still does is of no use."""
        if member.been_ready:
            return
        error = self._readiness.not_ready([member], self._config.startup_timeout)
        if not member.been_ready:  # asking took a moment
            self.changed(member, ReplicaState.FAILED, error)

    def _replace(self, old: Member) -> None:
        with self._replicas.condition:
            if self._closed:
                return
            if old.up:
                # A thread of its own: it waits for the new one, and then for the calls of the old one.
                self._spawn(lambda: self._replace_beside(old), "replace")
                return
        found = self._start_replacement(old, beside=False)
        if isinstance(found, Refused):
            self._is_refused(old, found)

    def _start_replacement(self, old: Member, *, beside: bool) -> Member | Refused | None:
        """
        Start a replica in the place of *old*.

        Args:
            old: It ended, or with *beside* it goes on until its replacement is ready and takes over.
            beside: Whether the old one stays for now; the new one gets no calls then, and the caller waits for it.

        Returns:
            The new one, which may have failed already; or why it cannot be placed; or None if nothing is to take the
            place of *old* any more.
        """
        replicas, index = self._replicas, old.spec.index
        with replicas.starting:
            with replicas.condition:
                if not self._may_be_replaced(old, beside=beside):
                    return None
                spec = self._launcher.next_spec(index, newer=old.newer)
            place = self._launcher.place(spec, newer=old.newer)
            if isinstance(place, Refused):
                return place
            counts = {} if beside else old.counts()
            with replicas.condition:
                if not self._may_be_replaced(old, beside=beside):  # it may take long to place a replica
                    return None
                self.replacements[_what_was_wrong(old, beside=beside)] += 1
                member = self._launcher.make(index, self.replaced, newer=old.newer)
                now = self._clock.monotonic()
                self._made_supervisor().started(index, now)
                if beside:
                    member.held = True
                    old.replacement = member
                else:
                    member.managed_by, old.managed_by = ManagedBy.SUPERVISOR, ManagedBy.NOBODY
                    until = now + self._config.startup_timeout
                    self._late[member] = self._clock.call_at(until, lambda: self._is_late(member))
                replicas.add([member])
                if not beside:
                    replicas.drop([old], [counts])
            try:
                self._launcher.launch(member, place)
            except Exception as error:  # noqa: BLE001 - whatever the target raises, the next start may go well
                self.changed(member, ReplicaState.FAILED, error)
            return member

    def _is_refused(self, old: Member, refused: Refused) -> None:
        with self._replicas.condition:
            if not self._may_be_replaced(old, beside=False):
                return
            old.reason = f"no other replica can be placed: {refused}"
            old.not_on = refused.nodes
            reports = [("replacement_refused", old.reason, old.id)]
            now = self._clock.monotonic()
            reports += self._follow(old, self._made_supervisor().unplaced(old.spec.index, now))
        self._replicas.tell(reports)

    def _replace_beside(self, old: Member) -> None:
        """Replace a replica that is unhealthy: it may still answer, so the new one is started first."""
        replacement = self._start_replacement(old, beside=True)
        if replacement is None:
            return
        if isinstance(replacement, Refused):
            self._make_room(old, replacement)
            return
        try:
            self._readiness.wait([replacement], self._config.startup_timeout)
        except DeployError:
            self._departure.discard([replacement])
            self._has_failed(old, replacement)
            return
        if self._swap_in(old, replacement):
            self._departure.leave([old], f"replaced by {replacement.id}")(self._config.drain_timeout)
        else:
            self._departure.discard([replacement])

    def _swap_in(self, old: Member, replacement: Member) -> bool:
        """
        Let *replacement* take the place of *old*, beside which it was started.

        Returns:
            Whether it may: the place may have been given to another one, or to none, meanwhile.
        """
        with self._replicas.condition:
            if (
                old.replacement is not replacement
                or old.managed_by is not ManagedBy.SUPERVISOR
                or not self._replicas.wanted
            ):
                return False
            old.managed_by = ManagedBy.NOBODY
            replacement.held = False
            reports = self.supervise(
                [replacement]
            )  # in one step: who scales meanwhile finds one of the two, and not both
        self._launcher.open_if_ready(replacement)
        self._replicas.tell(reports)
        return True

    def _has_failed(self, old: Member, replacement: Member) -> None:
        with self._replicas.condition:
            if old.replacement is not replacement or self._closed:
                return
            old.replacement = None
            reason = f"{replacement.id}, which was to replace it, failed: {replacement.missing}"
            old.reason = f"{old.reason.partition('; ')[0]}; {reason}"
            now = self._clock.monotonic()
            reports = self._follow(old, self._made_supervisor().failed(old.spec.index, now))
        self._replicas.tell([("replacement_failed", reason, old.id), *reports])

    def _make_room(self, old: Member, refused: Refused) -> None:
        """There is no room for two: the unhealthy one has to go first, with the calls that it does not finish."""
        with self._replicas.condition:
            if not self._may_be_replaced(old, beside=True):
                return
            why = f"it was unhealthy ({old.reason}) and no other can be placed beside it: {refused}"
        self._stop_for_another(old, why)

    def make_room(self, old: Member, why: str) -> None:
        """Stop *old*, which is up and well, and have another one started in its place at once."""
        with self._replicas.condition:
            if old.managed_by is not ManagedBy.SUPERVISOR or old.replacement is not None or not old.up:
                return
            self._let_go(old)  # what was before it counts no more: its end is no failure
            old.recycled = True
        self._stop_for_another(old, why)

    def _stop_for_another(self, old: Member, why: str) -> None:
        self._departure.vacate(old, self._config.drain_timeout)
        msg = f"replica {old.id} was stopped because {why}"
        self.changed(old, ReplicaState.FAILED, DeployError(msg, replica=old.id))


def _what_was_wrong(old: Member, *, beside: bool) -> str:
    if not old.been_ready:
        return "start_failed"
    if old.recycled:
        return "recycled"
    # One that had to make room has failed with an error of ours; no target reports a death by such a one.
    return "unhealthy" if beside or isinstance(old.cause, DeployError) else "died"
