"""Replaces the replicas of one service a few at a time, by a new version or by the same one."""

from __future__ import annotations

import logging
import threading
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.deployment.replicas.member import ManagedBy
from sage_plugins.deployment.replicas.starting import NoRoomError
from sage_plugins.errors import DeployError, text_of
from sage_plugins.interfaces import ControlOp
from sage_plugins.resilience.rollout import Done, Halt, Promote, ReplicaView, RollBack, Rollout, Start, Stop, Wait
from sage_plugins.texts import counted
from sage_plugins.values import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sage_plugins.deployment.replicas.member import Claim, Member
    from sage_plugins.deployment.replicas.replica_set import ReplicaSet
    from sage_plugins.deployment.replicas.starting import Launcher
    from sage_plugins.deployment.replicas.stopper import ReplicaStopper
    from sage_plugins.deployment.replicas.supervision import ReplicaSupervisor
    from sage_plugins.deployment.replicas.waiting import Readiness
    from sage_plugins.planning.composition import Composition
    from sage_plugins.resilience.rollout import RolloutSettings, Step

__all__ = ["Rolling"]

#: Seconds between two checks of a new replica that does not pass yet.
_ASK_AGAIN_S: Final = 0.1

_CHECKS: Final = {ControlOp.CHECK: "check_health", ControlOp.READY: "check_ready"}


class Rolling:
    """
    One rolling update or restart. Carries out the steps of a `Rollout`.

    One thread at a time drives it, and no other thread changes the service meanwhile.
    """

    def __init__(  # noqa: PLR0913 - the parts of the service and the change
        self,
        replicas: ReplicaSet,
        launcher: Launcher,
        stopper: ReplicaStopper,
        supervisor: ReplicaSupervisor,
        readiness: Readiness,
        *,
        to: Composition,
        places: Sequence[int],
        settings: RolloutSettings,
        updates: bool,
    ) -> None:
        """
        Prepare the change; replaces nothing.

        Args:
            replicas: The service's replicas.
            launcher: Starts replicas.
            stopper: Stops replicas.
            supervisor: Manages replicas that have taken their places.
            readiness: Explains why a replica is not ready.
            to: Composition of the new replicas.
            places: Indexes of the replicas to replace.
            settings: Limits.
            updates: Whether *to* is another version. Then each step is an event, and the next replicas start without
                waiting for those that leave.
        """
        self._replicas = replicas
        self._launcher = launcher
        self._stopper = stopper
        self._supervisor = supervisor
        self._readiness = readiness
        self._clock = replicas.clock
        self._tell = replicas.monitors.tell if updates else _tell_nobody
        self._to = to
        self._number = len(places)
        self._settings = settings
        self._updates = updates
        self._rollout = Rollout(places, settings)
        self._claims: dict[int, Claim] = {}  # of old replicas, by index
        self._candidates: dict[str, Member] = {}  # new replicas that have not taken their places yet
        self._passed: set[str] = set()  # candidates that passed their last checks
        self._check_error = ""  # why a candidate last did not pass
        self._leaving: set[str] = set()  # guarded by ReplicaSet.condition
        self._stopped: list[threading.Event] = []  # one for each replica told to leave
        self._replaced = 0
        self._error: DeployError | None = None  # why the last new replica failed
        self._outcome: DeployError | None = None

    # -- the whole change ----------------------------------------------------------------------------------------------

    def run(self, on_done: Callable[[], None]) -> None:
        """
        Make the change, and call *on_done* when nothing is left to do.

        After Ctrl-C, a background thread calls *on_done*, maybe after this has raised.

        Raises:
            DeployError: A new replica did not become ready. The change was rolled back, or stopped where it was, as the
                error says. Or the service was stopped.
        """
        begun = self._clock.monotonic()
        with self._replicas.condition:
            self._replicas.next_composition = self._to
        settings = self._settings
        limits = f"{counted(self._number, 'replica')}, at most {self._number + settings.max_surge} at once"
        self._tell("roll_started", f"{limits} and at least {max(0, self._number - settings.max_unavailable)} available")
        try:
            self._drive()
        except Exception:
            self._end(on_done)
            raise
        except BaseException as error:  # Ctrl-C: roll back in the background, so that the user need not wait
            self._rollout.fail(f"it was interrupted by {type(error).__name__}")
            self._replicas.lifecycle.in_background(partial(self._give_up, on_done), "roll")
            raise
        self._end(on_done)
        if self._outcome is not None:
            raise self._outcome
        took = self._clock.monotonic() - begun
        self._tell("roll_done", f"{counted(self._number, 'replica')} replaced in {took:.3g} s")

    def wait_for_stopping(self) -> None:
        """Wait until all replaced replicas have stopped."""
        for each in self._stopped:
            each.wait()

    def _give_up(self, on_done: Callable[[], None]) -> None:
        try:
            self._drive()
        except Exception:  # the service may have been stopped
            logging.getLogger("sage_plugins").debug("an interrupted update was not rolled back", exc_info=True)
        finally:
            self._end(on_done)

    def _end(self, on_done: Callable[[], None]) -> None:
        """End the change. Treat all replicas as one version from now on, even if replicas of both are left."""
        replicas = self._replicas
        try:
            self._clean_up()
            with replicas.condition:
                if self._outcome is None and not self._rollout.back and self._is_complete():
                    replicas.composition = self._to
                replicas.next_composition = None
                for member in replicas.members:
                    member.newer = False
                last = next((each for each in replicas.members if each.ended), None)
            if last is not None:
                replicas.refuse_if_hopeless(last)
        finally:
            on_done()

    def _is_complete(self) -> bool:
        return self._replaced == self._number

    # -- step by step --------------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        while True:
            step = self._next()
            if isinstance(step, Done):
                return
            if isinstance(step, Halt):
                self._halt(step)
                return
            self._do(step)

    def _next(self) -> Step:
        """Wait until there is something to do, and return that step."""
        replicas = self._replicas
        while True:
            self._look_at_candidates()
            with replicas.condition:
                replicas.check_wanted()
                if any(self._needs_action(each) for each in self._candidates.values()):
                    continue
                step = self._rollout.step(self._views(), len(self._leaving), self._clock.monotonic())
                if not isinstance(step, Wait):
                    return step
                self._wait(step.until)

    def _wait(self, until: float) -> None:
        checked = any(self._has_checks(each) for each in self._candidates.values())
        timer = self._clock.call_at(until, self._wake) if until < inf else None
        try:
            self._replicas.condition.wait(_ASK_AGAIN_S if checked else None)
        finally:
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        with self._replicas.condition:
            self._replicas.condition.notify_all()

    def _views(self) -> list[ReplicaView]:
        """Return the replicas in the form that `Rollout` takes; under the condition."""
        return [
            ReplicaView(
                id=each.id,
                index=each.spec.index,
                new=each.newer,
                alive=not each.ended or (each.state is ReplicaState.FAILED and each.replacement is None),
                ready=each.state is ReplicaState.READY and each.in_service and self._counts_as_ready(each),
                has_place=each.managed_by is ManagedBy.SUPERVISOR,
                ended=each.ended,
                why_hopeless=_why_hopeless(each),
            )
            for each in self._replicas.members
            if each.spec.index in self._rollout.places
            and (each.managed_by is ManagedBy.SUPERVISOR or each.id in self._candidates)
            and not each.is_leaving
            and each.state is not ReplicaState.STOPPED
        ]

    def _do(self, step: Step) -> None:
        if isinstance(step, Start):
            self._start(step)
        elif isinstance(step, Promote):
            self._promote(step)
        elif isinstance(step, Stop):
            self._stop_replica(self._member(step.id), step.why)
        elif isinstance(step, RollBack):
            self._roll_back(step)

    # -- new replicas --------------------------------------------------------------------------------------------------

    def _start(self, step: Start) -> None:
        replicas, index = self._replicas, step.index
        if step.new:
            claim = self._supervisor.claim(index)
            if claim is not None:
                self._claims[index] = claim
        try:
            (member,) = self._launcher.start([index], held=True, newer=step.new)
        except Exception as error:  # noqa: BLE001 - whatever the target raises, the service goes on
            self._cancel_replacement(index)
            with replicas.condition:
                replicas.check_wanted()
                if isinstance(error, NoRoomError):
                    self._rollout.refused(str(error), self._views(), len(self._leaving))
                else:
                    self._rollout.ended(None, text_of(error), died=False)
            self._error = error if isinstance(error, DeployError) else None
            return
        with replicas.condition:
            self._candidates[member.id] = member
            replicas.condition.notify_all()

    def _look_at_candidates(self) -> None:
        """Send calls to candidates that are ready, and handle those that have ended."""
        for member in list(self._candidates.values()):
            if member.ended:
                self._handle_end(member)
            elif member.up and (not self._has_checks(member) or self._passes(member)):
                self._passed.add(member.id)
                if member.held:
                    self._launcher.release([member])
            else:
                self._passed.discard(member.id)

    def _needs_action(self, member: Member) -> bool:
        """Whether a candidate needs an action now. Candidates with checks are polled instead."""
        return member.ended or (member.up and member.held and not self._has_checks(member))

    def _counts_as_ready(self, member: Member) -> bool:
        return member.id not in self._candidates or member.id in self._passed

    def _has_checks(self, member: Member) -> bool:
        """Whether a candidate is up and has a readiness or health check."""
        cls: Any = member.spec.factory.service_class
        return member.up and any(callable(getattr(cls, hook, None)) for hook in _CHECKS.values())

    def _passes(self, member: Member) -> bool:
        cls: Any = member.spec.factory.service_class
        try:
            for op, hook in _CHECKS.items():
                if callable(getattr(cls, hook, None)):
                    member.control(op, timeout=member.spec.config.health_check_timeout)
        except Exception as error:  # noqa: BLE001 - whatever it raises, it is not ready
            self._check_error = text_of(error)
            return False
        return True

    def _handle_end(self, member: Member) -> None:
        died = member.died  # read first: `discard` below ends the replica
        if died:
            msg = f"service '{self._replicas.name}': {member.id} died before it took its place: {member.reason_line}"
            self._error = DeployError(msg, service=self._replicas.name, replica=member.id)
        else:
            self._error = self._readiness.why_failed(member)
        self._forget_candidate(member)
        self._stopper.discard([member])
        self._cancel_replacement(member.spec.index)
        self._rollout.ended(member.id, str(self._error), died=died)

    def _forget_candidate(self, member: Member) -> None:
        with self._replicas.condition:
            self._candidates.pop(member.id, None)
            self._passed.discard(member.id)

    def _promote(self, step: Promote) -> None:
        """Give an available replica its place, and stop the replica that had it."""
        member = self._member(step.id)
        self._claims.pop(member.spec.index, None)
        with self._replicas.condition:
            self._candidates.pop(member.id, None)
            self._passed.discard(member.id)
            reports = self._supervisor.supervise([member])
        self._replicas.tell(reports)
        if member.newer:
            self._replaced += 1
            instead = "" if step.old is None else f" in the place of {step.old}"
            self._tell("roll_progress", f"{self._replaced} of {self._number}: {member.id}{instead}", member.id)
        if step.old is not None:
            self._stop_replica(self._member(step.old), f"replaced by {member.id}")

    # -- old replicas --------------------------------------------------------------------------------------------------

    def _stop_replica(self, member: Member, reason: str) -> None:
        self._claims.pop(member.spec.index, None)
        self._supervisor.stop_replacing(member)
        is_candidate = member.id in self._candidates
        self._forget_candidate(member)
        if is_candidate and not member.slots:  # it has never had a call
            self._stopper.discard([member])
            return
        if member.newer and not is_candidate:
            self._replaced -= 1
        with self._replicas.condition:
            self._leaving.add(member.id)
        finish = self._stopper.begin_drain([member], reason)
        gone = threading.Event()
        self._stopped.append(gone)
        if self._updates:
            self._replicas.lifecycle.in_background(partial(self._finish, member, finish, gone), "roll")
        else:
            self._finish(member, finish, gone)

    def _finish(self, member: Member, finish: Callable[[float], None], gone: threading.Event) -> None:
        try:
            finish(self._replicas.composition.config.drain_timeout)
        finally:
            with self._replicas.condition:
                self._leaving.discard(member.id)
                self._replicas.condition.notify_all()
            gone.set()

    def _member(self, id: str) -> Member:
        return next(each for each in self._replicas.members if each.id == id)

    def _cancel_replacement(self, index: int) -> None:
        claim = self._claims.pop(index, None)
        if claim is not None:
            self._supervisor.cancel_replacement(claim)

    # -- failures ------------------------------------------------------------------------------------------------------

    def _roll_back(self, step: RollBack) -> None:
        error = self._why(step.why, step.id)
        for index in list(self._claims):
            self._cancel_replacement(index)
        msg = f"service '{self._replicas.name}' was rolled back, and goes on as it was before the update: {error}"
        self._fail(msg, error, step.id)
        self._tell("rolled_back", f"{error}; {self._replaced} of {self._number} had been replaced", step.id or "")

    def _halt(self, step: Halt) -> None:
        error = self._why(step.why, step.id)
        before = self._outcome
        self._clean_up()
        if not self._updates:
            self._outcome = error
            return
        how = f"{self._replaced} of {counted(self._number, 'replica')} are of the new version"
        if before is not None:
            msg = f"{before}; but the rollback failed, and {how}: {error}"
        else:
            name = self._replicas.name
            msg = f"the update of service '{name}' has stopped because auto_rollback is false, and {how}: {error}"
        self._fail(msg, error, step.id)
        self._tell("roll_stopped", f"{error}; {how}", step.id or "")

    def _clean_up(self) -> None:
        """Stop all candidates, and start replicas of the version in force in empty places."""
        for member in list(self._candidates.values()):
            self._stop_replica(member, "the update has ended")
        for index in list(self._claims):
            self._cancel_replacement(index)
        with self._replicas.condition:
            if not self._replicas.wanted:
                return
            empty = set(self._rollout.places) - {each.spec.index for each in self._replicas.places}
        for index in sorted(empty):
            try:
                self._supervisor.admit(self._launcher.start([index], held=True))
            except Exception:
                log = logging.getLogger("sage_plugins")
                log.exception("replica %d of service '%s' was not started again", index, self._replicas.name)

    def _why(self, why: str, id: str | None) -> DeployError:
        """Return the error for *why* that `Rollout` gives, with all known details."""
        error, self._error = self._error, None
        if error is not None and (id is None or error.replica == id):
            return error
        late = self._candidates.get(id or "")
        if late is not None:
            if late.up and late.id not in self._passed and self._check_error:
                why = f"{why}: {self._check_error}"
            else:
                return self._readiness.not_ready([late], self._settings.progress_deadline)
        msg = f"service '{self._replicas.name}': {id + ' ' if id else ''}{why}"
        return DeployError(msg, service=self._replicas.name, replica=id)

    def _fail(self, msg: str, error: DeployError, id: str | None) -> None:
        self._outcome = DeployError(msg, service=self._replicas.name, replica=id or error.replica)
        self._outcome.__cause__ = error.__cause__


def _why_hopeless(member: Member) -> str:
    return member.reason_line or "it is in a crash loop" if member.state is ReplicaState.CRASH_LOOP else ""


def _tell_nobody(kind: str, reason: str, replica: str = "") -> None:
    """Send no event: a restart is reported as a whole."""
