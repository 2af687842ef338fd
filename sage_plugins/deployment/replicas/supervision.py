"""Supervises the replicas of one service, and replaces those that end or are unhealthy."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from sage_plugins.deployment.replicas.member import Claim, ManagedBy
from sage_plugins.errors import DeployError, text_of
from sage_plugins.values import Refused, ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Timer
    from sage_plugins.config.service_config import ServiceDeploymentConfig
    from sage_plugins.deployment.replicas.member import Member, Report
    from sage_plugins.deployment.replicas.replica_set import ReplicaSet
    from sage_plugins.deployment.replicas.starting import Launcher
    from sage_plugins.deployment.replicas.stopper import ReplicaStopper
    from sage_plugins.deployment.replicas.waiting import Readiness
    from sage_plugins.resilience.restarts import CrashLoop, Restarts, Start

__all__ = ["ReplicaSupervisor"]


class ReplicaSupervisor:
    """
    Decides who manages each replica, and starts replacements.

    Code that starts a replica and waits for it manages the replica meanwhile. Then the supervisor manages it. Nobody
    manages a replica that was told to leave. The supervisor replaces a replica that ends, and an unhealthy one if the
    target declares `replaces_unhealthy`.

    Reporting the end of a replica never blocks, because the clock's thread or a target's thread may report it. Slow
    work runs in a background thread that exists only while there is work. A service whose replicas all live has no
    `Restarts`, timer or thread.
    """

    def __init__(
        self,
        replicas: ReplicaSet,
        launcher: Launcher,
        stopper: ReplicaStopper,
        readiness: Readiness,
        spawn: Callable[[Callable[[], None], str], None],
    ) -> None:
        """
        Receive all reports of *replicas* from now on.

        *spawn(body, what)* runs *body* in a background thread, for which the service waits when it stops.
        """
        self._replicas = replicas
        self._launcher = launcher
        self._stopper = stopper
        self._readiness = readiness
        self._spawn = spawn
        self._clock = replicas.clock
        self._replaces_unhealthy = "replaces_unhealthy" in replicas.composition.target.registration.capabilities
        # All are guarded by ReplicaSet.condition.
        self._restarts: Restarts | None = None  # made when the first replica ends
        #: Number of replacements by the reason why the old replica had to go; `recycled` only after the first one.
        self.replacements: Counter[str] = Counter(died=0, start_failed=0, unhealthy=0)
        self._due: dict[int, Timer] = {}  # by position: starts the next replica there
        self._late: dict[Member, Timer] = {}  # ends at the startup timeout of a replica
        self._jobs: list[Callable[[], None]] = []
        self._thread_runs = False  # whether a background thread runs the jobs
        self._closed = False
        replicas.supervision = self

    @property
    def _config(self) -> ServiceDeploymentConfig:
        return self._replicas.composition.config

    @property
    def replacement_count(self) -> int:
        """Number of replacements so far."""
        return self.replacements.total()

    # -- what replicas and monitors report ---------------------------------------------------------------------------

    def changed(self, member: Member, state: ReplicaState, cause: BaseException | None) -> None:
        """Record the state that a replica reports."""
        replicas = self._replicas
        if state is ReplicaState.READY and not member.may_open:
            with replicas.condition:
                member.has_started = True
            self._launcher.send_canary_if_started(member)
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
            replicas.router.close_lane(member.lane)  # its lane may have opened after `lost` told the router

    def lost(self, member: Member, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        """A replica died: its calls are sent again or end. If no other replica is coming, waiting calls end too."""
        with self._replicas.condition:
            member.died = True
        self.changed(member, ReplicaState.FAILED, cause)  # first: a caller whose call ends now may look at the state
        self._replicas.router.lost(member.lane, not_started, maybe, cause)
        self._replicas.refuse_if_hopeless(member)

    def mark(self, member: Member, state: ReplicaState, reason: str) -> None:
        """Record a monitor's judgment of a replica; see `interfaces.WatchedReplica.mark`."""
        state = ReplicaState(state)
        replicas = self._replicas
        with replicas.condition:
            if not member.apply_mark(state, reason):
                return
            replicas.router.avoid(member.lane, avoided=state is not ReplicaState.READY)
            reports: list[Report] = [(f"replica_{state}", reason, member.id)]
            reports += self._look_after(member)
            replicas.condition.notify_all()
        replicas.tell(reports)

    def opened(self) -> list[Report]:
        """A replica gets calls now; once all do, the service is ready. Under `condition`. Returns events to send."""
        replicas = self._replicas
        members = replicas.members
        if replicas.lifecycle.state is not ReplicaState.STARTING or not all(each.in_service for each in members):
            return []
        replicas.lifecycle.become_ready()
        reports = self.supervise(members)
        replicas.reach.ready()
        if replicas.scaler is not None:
            replicas.scaler.start()
        if replicas.recycler is not None:
            replicas.recycler.start()
        return reports

    # -- who manages a replica ---------------------------------------------------------------------------------------

    def supervise(self, members: Sequence[Member]) -> list[Report]:
        """Replace *members* when they end, or if they have ended. Under `condition`. Returns events to send."""
        reports: list[Report] = []
        for member in members:
            member.managed_by = ManagedBy.SUPERVISOR
            reports += self._look_after(member)
        return reports

    def admit(self, members: Sequence[Member]) -> None:
        """Send calls to *members*, which got none until now, and replace them when they end."""
        self._launcher.release(members)
        with self._replicas.condition:
            reports = self.supervise(members)
        self._replicas.tell(reports)

    def claim(self, index: int) -> Claim | None:
        """
        Let the caller replace the replica at *index*; the supervisor no longer does.

        Returns:
            The claim, for `cancel_replacement` if the caller gives up. None if there is no replica.
        """
        with self._replicas.condition:
            member = next((each for each in self._replicas.places if each.spec.index == index), None)
            if member is None:
                return None
            token = member.replacement = object()
            self._forget_position(member)
        return Claim(member, token)

    def cancel_replacement(self, claim: Claim) -> None:
        """The owner of *claim* gives up: the supervisor manages the replica again."""
        old = claim.old
        with self._replicas.condition:
            if old.replacement is not claim.token:
                return
            old.replacement = None
            reports = self._look_after(old)
        self._replicas.tell(reports)

    def stop_replacing(self, member: Member) -> None:
        """Stop replacing *member*."""
        with self._replicas.condition:
            member.managed_by = ManagedBy.NOBODY
            self._forget_position(member)

    def stop_replacing_surplus(self, keep: int) -> tuple[Member, ...]:
        """
        Keep *keep* of the service's replicas, and stop replacing the others. Replicas that do not serve go first.

        Returns:
            The replicas that have to leave now.
        """
        with self._replicas.condition:
            surplus = self._replicas.places[keep:]
            for member in surplus:
                member.managed_by = ManagedBy.NOBODY
                self._forget_position(member)
        return surplus

    def close(self) -> None:
        """Start no more replacements. Under `condition`. Idempotent."""
        self._closed = True
        if self._replicas.recycler is not None:
            self._replicas.recycler.close()
        for timer in (*self._due.values(), *self._late.values()):
            timer.cancel()

    # -- decisions; under the condition ------------------------------------------------------------------------------

    def _look_after(self, member: Member) -> list[Report]:
        """Replace *member* if necessary. Returns events to send after the condition is released."""
        if member.managed_by is not ManagedBy.SUPERVISOR or member.replacement is not None or not self._replicas.wanted:
            return []
        if member.state is ReplicaState.READY:
            self._forget_late(member)
            if self._restarts is not None:
                self._restarts.ready(member.spec.index, self._clock.monotonic())
            return []
        unhealthy = member.state is ReplicaState.UNHEALTHY and self._replaces_unhealthy
        return self._decide_next(member) if unhealthy or member.state is ReplicaState.FAILED else []

    def _decide_next(self, member: Member) -> list[Report]:
        """Decide what follows a replica that has ended, or that is up but has to be replaced."""
        index, now = member.spec.index, self._clock.monotonic()
        self._forget_late(member)
        restarts = self._ensure_restarts()
        decision = restarts.died(index, now) if member.has_been_ready else restarts.failed(index, now)
        reports = self._carry_out(member, decision)
        if not member.up:
            self._do(lambda: self._stopper.clean_up(member))  # after a start that is due: cleaning up may take long
        return reports

    def _ensure_restarts(self) -> Restarts:
        if self._restarts is None:
            from random import Random  # most services never need it

            from sage_plugins.resilience.restarts import Restarts

            self._restarts = Restarts(Random())  # noqa: S311 - no secret
        return self._restarts

    def _carry_out(self, member: Member, decision: Start | CrashLoop) -> list[Report]:
        """Carry out *decision* at the position of *member*. Returns events to send."""
        from sage_plugins.resilience.restarts import MOST_STARTS, WINDOW_S, CrashLoop

        self._cancel(member.spec.index)
        if isinstance(decision, CrashLoop):
            reason = f"is in a crash loop: {MOST_STARTS} starts in its place within {WINDOW_S:g} s have failed"
            if member.up:
                member.reason = f"{member.reason}; {reason}"
            else:
                member.give_up()
                self._do(lambda: self._replicas.refuse_if_hopeless(member))
            return [("crash_loop", f"{reason}: {member.reason_line}", member.id)]
        wait = decision.at - self._clock.monotonic()
        if wait <= 0:
            self._do(lambda: self._replace(member))
            return []
        if not self._closed:
            self._due[member.spec.index] = self._clock.call_at(decision.at, lambda: self._on_due(member))
        return [("replacement_delayed", f"another one is started in {wait:.3g} s", member.id)]

    def _forget_position(self, member: Member) -> None:
        """Cancel the next start at the position of *member*, and forget its history."""
        self._cancel(member.spec.index)
        if self._restarts is not None:
            self._restarts.stopped(member.spec.index)

    def _may_be_replaced(self, old: Member, *, keeps_old: bool) -> bool:
        """Whether *old* still needs a replacement. *keeps_old*: while *old* still runs."""
        due = ReplicaState.UNHEALTHY if keeps_old else ReplicaState.FAILED
        return (
            old.managed_by is ManagedBy.SUPERVISOR
            and old.replacement is None
            and old.state is due
            and self._replicas.wanted
        )

    # -- timers and jobs ---------------------------------------------------------------------------------------------

    def _cancel(self, index: int) -> None:
        timer = self._due.pop(index, None)
        if timer is not None:
            timer.cancel()

    def _forget_late(self, member: Member) -> None:
        timer = self._late.pop(member, None)
        if timer is not None:
            timer.cancel()

    def _on_due(self, member: Member) -> None:
        with self._replicas.condition:
            self._due.pop(member.spec.index, None)
            self._do(lambda: self._replace(member))

    def _on_late(self, member: Member) -> None:
        with self._replicas.condition:
            if self._late.pop(member, None) is not None:
                self._do(lambda: self._give_up(member))

    def _do(self, job: Callable[[], None]) -> None:
        """Queue *job* for the background thread, which runs jobs in order without the lock; under the condition."""
        if self._closed:
            return
        self._jobs.append(job)
        if not self._thread_runs:
            self._thread_runs = True
            self._spawn(self._work, "supervisor")

    def _work(self) -> None:
        while True:
            with self._replicas.condition:
                if not self._jobs:
                    self._thread_runs = False
                    return
                job = self._jobs.pop(0)
            try:
                job()
            except Exception:  # an error of a target must not stop the replacement of other replicas
                logging.getLogger("sage_plugins").exception("a replica could not be replaced")

    # -- actions; not under the condition ----------------------------------------------------------------------------

    def _give_up(self, member: Member) -> None:
        """Fail the start of *member*, which was not ready in time."""
        if member.has_been_ready:
            return
        error = self._readiness.not_ready([member], self._config.startup_timeout)
        if not member.has_been_ready:  # it may have become ready meanwhile
            self.changed(member, ReplicaState.FAILED, error)

    def _replace(self, old: Member) -> None:
        with self._replicas.condition:
            if self._closed:
                return
            if old.up:
                # In a separate thread, because it waits for the new replica and then for calls of the old one.
                self._spawn(lambda: self._replace_running(old), "replace")
                return
        found = self._start_replacement(old, keeps_old=False)
        if isinstance(found, Refused):
            self._placement_refused(old, found)

    def _start_replacement(self, old: Member, *, keeps_old: bool) -> Member | Refused | None:
        """
        Start a replacement for *old*.

        Args:
            old: The replica to replace. It has ended, unless *keeps_old* is true.
            keeps_old: Whether *old* still runs. Then the replacement gets no calls yet, and the caller waits for it.

        Returns:
            The replacement, which may have failed already. Or why it cannot be placed. Or None if *old* needs no
            replacement any more.
        """
        replicas, index = self._replicas, old.spec.index
        with replicas.starting:
            with replicas.condition:
                if not self._may_be_replaced(old, keeps_old=keeps_old):
                    return None
                spec = self._launcher.next_spec(index, newer=old.newer)
            place = self._launcher.place(spec, newer=old.newer)
            if isinstance(place, Refused):
                return place
            counts = {} if keeps_old else old.counts()
            with replicas.condition:
                if not self._may_be_replaced(old, keeps_old=keeps_old):  # placing may have taken long
                    return None
                self.replacements[_replacement_reason(old, keeps_old=keeps_old)] += 1
                member = self._launcher.make(index, self.replacement_count, newer=old.newer)
                now = self._clock.monotonic()
                self._ensure_restarts().started(index, now)
                if keeps_old:
                    member.held = True
                    old.replacement = member
                else:
                    member.managed_by, old.managed_by = ManagedBy.SUPERVISOR, ManagedBy.NOBODY
                    until = now + self._config.startup_timeout
                    self._late[member] = self._clock.call_at(until, lambda: self._on_late(member))
                replicas.add([member])
                if not keeps_old:
                    replicas.drop([old], [counts])
            try:
                self._launcher.launch(member, place)
            except Exception as error:  # noqa: BLE001 - whatever the target raises, the next start may succeed
                self.changed(member, ReplicaState.FAILED, error)
            return member

    def _placement_refused(self, old: Member, refused: Refused) -> None:
        with self._replicas.condition:
            if not self._may_be_replaced(old, keeps_old=False):
                return
            old.reason = f"no other replica can be placed: {refused}"
            old.not_on = refused.nodes
            reports = [("replacement_refused", old.reason, old.id)]
            now = self._clock.monotonic()
            reports += self._carry_out(old, self._ensure_restarts().unplaced(old.spec.index, now))
        self._replicas.tell(reports)

    def _replace_running(self, old: Member) -> None:
        """Replace an unhealthy replica. The replacement starts first, because *old* may still answer calls."""
        replacement = self._start_replacement(old, keeps_old=True)
        if replacement is None:
            return
        if isinstance(replacement, Refused):
            self._stop_unhealthy_first(old, replacement)
            return
        try:
            self._readiness.wait([replacement], self._config.startup_timeout)
        except DeployError:
            self._stopper.discard([replacement])
            self._replacement_failed(old, replacement)
            return
        if self._swap_in(old, replacement):
            self._stopper.begin_drain([old], f"replaced by {replacement.id}")(self._config.drain_timeout)
        else:
            self._stopper.discard([replacement])

    def _swap_in(self, old: Member, replacement: Member) -> bool:
        """
        Give the position of *old* to *replacement*, which was started while *old* ran.

        Returns:
            False if *old* has lost its position meanwhile, or the service stops.
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
            )  # under the same lock, so that another thread that scales finds one of the two, never both
        self._launcher.open_if_ready(replacement)
        self._replicas.tell(reports)
        return True

    def _replacement_failed(self, old: Member, replacement: Member) -> None:
        with self._replicas.condition:
            if old.replacement is not replacement or self._closed:
                return
            old.replacement = None
            reason = f"{replacement.id}, which was to replace it, failed: {replacement.reason_line}"
            old.reason = f"{old.reason.partition('; ')[0]}; {reason}"
            now = self._clock.monotonic()
            reports = self._carry_out(old, self._ensure_restarts().failed(old.spec.index, now))
        self._replicas.tell([("replacement_failed", reason, old.id), *reports])

    def _stop_unhealthy_first(self, old: Member, refused: Refused) -> None:
        """Stop the unhealthy replica first, because there is no room for two. Calls that it does not finish fail."""
        with self._replicas.condition:
            if not self._may_be_replaced(old, keeps_old=True):
                return
            why = f"it was unhealthy ({old.reason}) and there is no room for a second one: {refused}"
        self._drain_and_fail(old, why)

    def stop_then_replace(self, old: Member, why: str) -> None:
        """Stop *old*, a healthy replica, and start its replacement at once."""
        with self._replicas.condition:
            if old.managed_by is not ManagedBy.SUPERVISOR or old.replacement is not None or not old.up:
                return
            self._forget_position(old)  # its end is no failure: earlier failures at this position count no more
            old.recycled = True
        self._drain_and_fail(old, why)

    def _drain_and_fail(self, old: Member, why: str) -> None:
        self._stopper.drain_and_stop(old, self._config.drain_timeout)
        msg = f"replica {old.id} was stopped because {why}"
        self.changed(old, ReplicaState.FAILED, DeployError(msg, replica=old.id))


def _replacement_reason(old: Member, *, keeps_old: bool) -> str:
    if not old.has_been_ready:
        return "start_failed"
    if old.recycled:
        return "recycled"
    # `_drain_and_fail` fails a replica with a DeployError; no target reports a death with one.
    return "unhealthy" if keeps_old or isinstance(old.cause, DeployError) else "died"
