"""Carries out what the supervisor decides: other replicas in the place of those that ended."""

from __future__ import annotations

import logging
from collections import deque
from random import Random
from typing import TYPE_CHECKING

from sage_plugins.errors import DeployError
from sage_plugins.resilience.restarts import MOST_STARTS, WINDOW_S, CrashLoop, Start, Supervisor
from sage_plugins.values import Refused, ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.clock import Clock, Timer
    from sage_plugins.config.service_config import ServiceDeploymentConfig
    from sage_plugins.deployment.replica_set import Member, ReplicaSet, Report

__all__ = ["Replacer"]


class Replacer:
    """
    Replaces the replicas of one service that end, and those that are unhealthy.

    Whoever reports that a replica ended is not kept waiting: it may be the clock's thread, or a target's. What takes
    time is done in a thread, which is there only as long as there is something to do.

    All methods are to be called under `ReplicaSet.condition`.
    """

    def __init__(
        self,
        replicas: ReplicaSet,
        config: ServiceDeploymentConfig,
        clock: Clock,
        spawn: Callable[[Callable[[], None], str], None],
    ) -> None:
        """
        Replace nothing yet.

        Args:
            replicas: The service's.
            config: For the time that a replica may take to start, and to drain.
            clock: For waits and time-outs.
            spawn: `spawn(body, what)` runs *body* in a thread that the service waits for before it has stopped.
        """
        self._replicas = replicas
        self._condition = replicas.condition
        self._startup_timeout = config.startup_timeout
        self._drain_timeout = config.drain_timeout
        self._clock = clock
        self._spawn = spawn
        self._supervisor = Supervisor(Random())  # noqa: S311 - no secret
        self._due: dict[int, Timer] = {}  # by position: when the next replica is to be started there
        self._late: dict[Member, Timer] = {}  # when one that is being started has to be ready
        self._jobs: deque[Callable[[], None]] = deque()
        self._at_work = False  # whether a thread does the jobs
        self._closed = False

    # -- what becomes of the replicas --------------------------------------------------------------------------------

    def ended(self, member: Member) -> list[Report]:
        """
        A replica ended, or it is up and has to be replaced.

        Returns:
            What is to be told: kind of the event, reason, the replica's id.
        """
        index, now = member.spec.index, self._clock.monotonic()
        self._forget_late(member)
        decision = self._supervisor.died(index, now) if member.been_ready else self._supervisor.failed(index, now)
        reports = self._follow(member, decision)
        if not member.up:
            self._do(lambda: self._replicas.bury(member))  # after the start, if that is due: it may take a while
        return reports

    def starting(self, member: Member) -> None:
        """A replica is about to be started in the place of another one."""
        now = self._clock.monotonic()
        self._supervisor.started(member.spec.index, now)
        if not member.held:  # else somebody waits for it
            self._late[member] = self._clock.call_at(now + self._startup_timeout, lambda: self._is_late(member))

    def ready(self, member: Member) -> None:
        """A replica of the service is ready."""
        self._forget_late(member)
        self._supervisor.ready(member.spec.index, self._clock.monotonic())

    def let_go(self, member: Member) -> None:
        """Somebody else sees to the place of *member* now, or it is given up: forget what was."""
        self._cancel(member.spec.index)
        self._supervisor.stopped(member.spec.index)

    def close(self) -> None:
        """Start nothing any more. Idempotent."""
        self._closed = True
        for timer in (*self._due.values(), *self._late.values()):
            timer.cancel()

    # -- when what is done -------------------------------------------------------------------------------------------

    def _follow(self, member: Member, decision: Start | CrashLoop) -> list[Report]:
        """Do what the supervisor says about the place of *member*; gives what is to be told."""
        self._cancel(member.spec.index)
        if isinstance(decision, CrashLoop):
            reason = f"is in a crash loop: {MOST_STARTS} starts in its place within {WINDOW_S:g} s have failed"
            if member.up:
                member.reason = f"{member.reason}; {reason}"
            else:
                member.state = ReplicaState.CRASH_LOOP
                self._do(lambda: self._replicas.refuse_if_hopeless(member))
            return [("crash_loop", f"{reason}: {member.missing}", member.id)]
        wait = decision.at - self._clock.monotonic()
        if wait <= 0:
            self._do(lambda: self._replace(member))
            return []
        if not self._closed:
            self._due[member.spec.index] = self._clock.call_at(decision.at, lambda: self._is_due(member))
        return [("replacement_delayed", f"another one is started in {wait:.3g} s", member.id)]

    def _cancel(self, index: int) -> None:
        timer = self._due.pop(index, None)
        if timer is not None:
            timer.cancel()

    def _forget_late(self, member: Member) -> None:
        timer = self._late.pop(member, None)
        if timer is not None:
            timer.cancel()

    def _is_due(self, member: Member) -> None:
        with self._condition:
            self._due.pop(member.spec.index, None)
            self._do(lambda: self._replace(member))

    def _is_late(self, member: Member) -> None:
        with self._condition:
            if self._late.pop(member, None) is not None:
                self._do(lambda: self._give_up(member))

    def _do(self, job: Callable[[], None]) -> None:
        """Have *job* done soon, in the order in which they come, without the condition."""
        if self._closed:
            return
        self._jobs.append(job)
        if not self._at_work:
            self._at_work = True
            self._spawn(self._work, "supervisor")

    def _work(self) -> None:
        while True:
            with self._condition:
                if not self._jobs:
                    self._at_work = False
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Exception:  # a target's fault must not keep the other replicas from being replaced
                logging.getLogger("sage_plugins").exception("a replica could not be replaced")

    # -- what is done; not under the condition -----------------------------------------------------------------------

    def _give_up(self, member: Member) -> None:
        """It has not become ready in time: that is a start that failed, and what it still does is of no use."""
        if member.been_ready:
            return
        error = self._replicas.not_ready([member], self._startup_timeout)
        if not member.been_ready:  # asking took a moment
            self._replicas.changed(member, ReplicaState.FAILED, error)

    def _replace(self, old: Member) -> None:
        with self._condition:
            if self._closed:
                return
            if old.up:
                # A thread of its own: it waits for the new one, and then for the calls of the old one.
                self._spawn(lambda: self._replace_beside(old), "replace")
                return
        found = self._replicas.succeed(old, beside=False)
        if isinstance(found, Refused):
            self._is_refused(old, found)

    def _is_refused(self, old: Member, refused: Refused) -> None:
        with self._condition:
            if not self._replicas.may_succeed(old, beside=False):
                return
            old.reason = f"no other replica can be placed: {refused}"
            reports = [("replacement_refused", old.reason, old.id)]
            reports += self._follow(old, self._supervisor.unplaced(old.spec.index, self._clock.monotonic()))
        self._replicas.tell(reports)

    def _replace_beside(self, old: Member) -> None:
        """Replace a replica that is unhealthy: it may still answer, so the new one is started first."""
        heir = self._replicas.succeed(old, beside=True)
        if heir is None:
            return
        if isinstance(heir, Refused):
            self._make_room(old, heir)
            return
        try:
            self._replicas.wait([heir], self._startup_timeout)
        except DeployError:
            self._replicas.discard([heir])
            self._has_failed(old, heir)
            return
        if self._replicas.inherit(old, heir):
            self._replicas.leave([old], f"replaced by {heir.id}")(self._drain_timeout)
        else:
            self._replicas.discard([heir])

    def _has_failed(self, old: Member, heir: Member) -> None:
        with self._condition:
            if old.heir is not heir or self._closed:
                return
            old.heir = None
            reason = f"{heir.id}, which was to replace it, failed: {heir.missing}"
            old.reason = f"{old.reason.partition('; ')[0]}; {reason}"
            reports = self._follow(old, self._supervisor.failed(old.spec.index, self._clock.monotonic()))
        self._replicas.tell([("replacement_failed", reason, old.id), *reports])

    def _make_room(self, old: Member, refused: Refused) -> None:
        """There is no room for two: the unhealthy one has to go first, with the calls that it does not finish."""
        with self._condition:
            if not self._replicas.may_succeed(old, beside=True):
                return
            msg = (
                f"replica {old.id} was stopped because it was unhealthy ({old.reason}) and no other can be placed "
                f"beside it: {refused}"
            )
        self._replicas.vacate(old, self._drain_timeout)
        self._replicas.changed(old, ReplicaState.FAILED, DeployError(msg, replica=old.id))
