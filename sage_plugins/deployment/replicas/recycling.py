"""Replaces replicas of one service that have reached a limit of `recycle`: one at a time, and new before old."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.deployment.replicas.waiting import stats_of
from sage_plugins.errors import text_of
from sage_plugins.resilience.recycling import Recycling, ReplicaUsage
from sage_plugins.values import Refused, ReplicaState

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping, Sequence

    from sage_plugins.clock import Timer
    from sage_plugins.config.nested_keys import RecyclePolicy
    from sage_plugins.deployment.replicas.member import Member
    from sage_plugins.deployment.replicas.replica_set import ReplicaSet
    from sage_plugins.deployment.replicas.starting import Launcher
    from sage_plugins.deployment.replicas.stopper import ReplicaStopper
    from sage_plugins.deployment.replicas.supervision import ReplicaSupervisor
    from sage_plugins.resilience.recycling import Due

__all__ = ["Recycler"]

#: Seconds between two looks.
_LOOK_EVERY_S: Final = 1.0

_MIB: Final = 1024 * 1024


class Recycler:
    """
    Looks at the replicas of one service periodically, and replaces the one that is due.

    A timer of the clock starts each look. A background thread asks the replicas and replaces one, then ends. There is
    no other look before that. The only cost for a call is that its replica counts it. Thread-safe.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of the service
        self,
        policy: RecyclePolicy,
        replicas: ReplicaSet,
        launcher: Launcher,
        stopper: ReplicaStopper,
        supervisor: ReplicaSupervisor,
        changing: threading.Lock,
    ) -> None:
        self._replicas = replicas
        self._launcher = launcher
        self._stopper = stopper
        self._supervisor = supervisor
        self._changing = changing
        self._clock = replicas.clock
        self._asks = policy.max_calls is not None or policy.max_memory_mb is not None
        self._in_process = "in_process" in replicas.composition.target.registration.capabilities
        self._machine = Recycling(policy)  # guarded by ReplicaSet.condition, as the next two
        self._timer: Timer | None = None
        self._closed = False

    def start(self) -> None:
        """Schedule the next look; first called when the service is ready. Under `ReplicaSet.condition`, as `close`."""
        if not self._closed:
            self._timer = self._clock.call_at(self._clock.monotonic() + _LOOK_EVERY_S, self._on_timer)

    def close(self) -> None:
        """Stop looking. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _on_timer(self) -> None:
        with self._replicas.condition:
            if self._closed:
                return
            members = [] if self._replicas.lifecycle.refuses_outsiders else self._candidates()
            if not members or not (self._asks or self._is_old(members)):  # ages need no thread to check
                self.start()
                return
            try:
                self._replicas.lifecycle.in_background(self._look, "recycle")
            except RuntimeError:  # the interpreter is shutting down
                self._closed = True

    def _look(self) -> None:
        try:
            with self._replicas.condition:
                members = self._candidates()
            answers = stats_of(members, in_process=self._in_process) if self._asks else [{}] * len(members)
            with self._replicas.condition:
                now = self._clock.monotonic()
                found = self._machine.look([_usage_of(*each, now) for each in zip(members, answers, strict=True)], now)
            if found is not None:
                self._recycle(next(each for each in members if each.id == found.replica), found)
        except Exception:  # an error of a target must not end the looks
            logging.getLogger("sage_plugins").exception("service '%s': recycling failed", self._replicas.name)
        finally:
            with self._replicas.condition:
                self.start()

    def _candidates(self) -> list[Member]:
        """Return the service's replicas that are up and are not being replaced anyway; under the condition."""
        return [
            each
            for each in self._replicas.places
            if each.up and each.state is not ReplicaState.UNHEALTHY and each.replacement is None
        ]

    def _is_old(self, members: Sequence[Member]) -> bool:
        """Whether one of *members* has reached its maximum age; under the condition."""
        now = self._clock.monotonic()
        return self._machine.is_reached(_usage_of(each, {}, now) for each in members)

    # -- replacing ---------------------------------------------------------------------------------------------------

    def _recycle(self, member: Member, due: Due) -> None:
        try:
            fresh = self._replace(member, due)
        except Exception as error:  # noqa: BLE001 - whatever is raised, the old replica goes on
            with self._replicas.condition:
                pause = self._machine.failed(self._clock.monotonic())
                wanted = self._replicas.wanted
            if wanted:
                reason = f"{due.reason}; it keeps running; the next try is in {pause:g} s: {text_of(error)}"
                self._replicas.monitors.tell("recycling_failed", reason, member.id)
            return
        with self._replicas.condition:
            self._machine.replaced(self._clock.monotonic())
        if fresh is not None:
            self._replicas.monitors.tell("recycled", f"{due.reason}; {fresh.id} serves in its place", member.id)

    def _replace(self, member: Member, due: Due) -> Member | None:
        """
        Start a replacement for *member*, then stop *member*.

        Returns:
            The replacement. None if none was started here: *member* no longer needs one, or there was no room for both
            replicas.
        """
        monitors, index = self._replicas.monitors, member.spec.index
        with self._changing:
            with self._replicas.condition:
                if member not in self._candidates() or not self._replicas.wanted:
                    return None
                spec = self._launcher.next_spec(index)
            place = self._launcher.place(spec)
            if isinstance(place, Refused):
                why = f"{due.reason}, and there is no room for a second one: {place}"
                monitors.tell("recycling", f"{why}; it stops first, and a new one starts after it", member.id)
                self._supervisor.stop_then_replace(member, why)
                return None
            claim = self._supervisor.claim(index)
            if claim is None:
                return None
            old = claim.old
            monitors.tell("recycling", due.reason, old.id)
            try:
                (fresh,) = self._launcher.start_and_wait([index])
            except BaseException:
                self._supervisor.cancel_replacement(claim)
                raise
            self._supervisor.admit([fresh])
            self._supervisor.replacements["recycled"] += 1
            finish = self._stopper.begin_drain([old], f"recycled ({due.reason}), replaced by {fresh.id}")
        finish(self._replicas.composition.config.drain_timeout)
        return fresh


def _usage_of(member: Member, answer: Mapping[str, Any], now: float) -> ReplicaUsage:
    counted = answer.get("recycle", {})
    memory = counted.get("memory")
    ready_at = now if member.ready_at is None else member.ready_at
    return ReplicaUsage(member.id, counted.get("calls"), None if memory is None else memory / _MIB, now - ready_at)
