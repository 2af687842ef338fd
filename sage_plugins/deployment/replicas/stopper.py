"""Stops replicas of one service: their calls finish, the replicas stop, and their counts are kept."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final, cast

from sage_plugins.errors import text_of
from sage_plugins.texts import counted
from sage_plugins.values import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sage_plugins.deployment.replicas.member import Member
    from sage_plugins.deployment.replicas.replica_set import ReplicaSet
    from sage_plugins.interfaces import DetachableReplica, Replica

__all__ = ["ReplicaStopper"]

#: Seconds for stop hooks and workers if draining has used up all the time.
_LAST_GRACE_S: Final = 1.0


class ReplicaStopper:
    """Stops replicas. All methods are safe from any thread, but never call them under `ReplicaSet.condition`."""

    def __init__(self, replicas: ReplicaSet) -> None:
        self._replicas = replicas
        self._clock = replicas.clock

    # -- while the service goes on -----------------------------------------------------------------------------------

    def begin_drain(self, members: Sequence[Member], reason: str) -> Callable[[float], None]:
        """
        Send no more calls to *members*; their running calls go on.

        Args:
            members: The replicas that leave.
            reason: Why, for the events.

        Returns:
            A function that completes this within the given number of seconds. It waits for the running calls, stops the
            replicas and forgets them. Calls that still run then end with ServiceStoppedError; their methods go on.
        """
        replicas = self._replicas
        with replicas.condition:
            serving = [member for member in members if member.begin_drain()]
        for member in serving:
            replicas.monitors.tell("replica_draining", reason, member.id)
        idle = [threading.Event() for _ in members]
        lanes = [member.lane for member in members]
        replicas.router.retire({lane: event.set for lane, event in zip(lanes, idle, strict=True)})

        def finish(limit: float) -> None:
            until = self._clock.monotonic() + limit
            for event in idle:
                event.wait(max(0.0, until - self._clock.monotonic()))
            self._vacate(members, until - self._clock.monotonic())
            self._stop(members, max(until - self._clock.monotonic(), _LAST_GRACE_S))
            replicas.forget(members)

        return finish

    def discard(self, members: Sequence[Member]) -> None:
        """Stop *members*, which have never had calls, and forget them."""
        replicas = self._replicas
        self._stop(members, _LAST_GRACE_S)
        replicas.forget(members)
        # Calls may have waited for these replicas only, after another one was given up.
        if members and any(each.state is ReplicaState.CRASH_LOOP for each in replicas.members):
            replicas.refuse_if_hopeless(members[-1])

    def drain_and_stop(self, member: Member, limit: float) -> None:
        """Send no more calls to *member*, wait *limit* seconds for its running calls, and stop it."""
        until = self._clock.monotonic() + limit
        idle = threading.Event()
        self._replicas.router.retire({member.lane: idle.set})
        idle.wait(limit)
        self._vacate([member], until - self._clock.monotonic())
        self.clean_up(member)

    def clean_up(self, member: Member) -> None:
        """Tell the target to stop a replica that has ended. If its constructor failed, its workers may still live."""
        if member.replica is not None:
            _begin_stop(member.replica)
            _finish_stop(member.replica, _LAST_GRACE_S)

    # -- at the end of the service -----------------------------------------------------------------------------------

    def vacate_all(self, limit: float) -> None:
        """Make the replicas refuse calls of other processes, and wait at most *limit* seconds for running ones."""
        self._vacate(self._replicas.members, limit)

    def detach_all(self) -> None:
        """Detach from the replicas, which go on without this process. Stop replicas that have never been ready."""
        members, condition = self._replicas.members, self._replicas.condition
        staying = [each for each in members if each.has_been_ready and not each.ended and each.replica is not None]
        self._stop([each for each in members if each not in staying], _LAST_GRACE_S)
        for member in staying:
            cast("DetachableReplica", member.replica).leave()
            with condition:
                member.end_stop()
                condition.notify_all()
            self._replicas.monitors.tell("replica_left", "it goes on without this process", member.id)

    def stop_all(self, grace: float) -> None:
        """Stop all replicas in reverse order, within *grace* seconds in total, or 1 s if *grace* is shorter."""
        self._stop(self._replicas.members[::-1], max(grace, _LAST_GRACE_S))

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _vacate(self, members: Sequence[Member], limit: float) -> None:
        with_calls = [each for each in members if each.up or each.state is ReplicaState.DRAINING]
        replicas = [each.replica for each in with_calls if each.replica is not None]
        if replicas:
            self._replicas.reach.vacate(replicas, limit)

    def _stop(self, members: Sequence[Member], grace: float) -> None:
        until = self._clock.monotonic() + grace
        replicas = self._replicas
        with replicas.condition:
            for member in members:
                member.begin_stop()
        with replicas.starting:  # wait for replicas that are being started, to stop them too
            started = [(member, member.replica) for member in members if member.replica is not None]
        # Tell all to stop before waiting for any, so that a stuck replica takes no time from the others.
        for _, replica in started:
            _begin_stop(replica)
        for member, replica in started:
            how = _finish_stop(replica, max(0.0, until - self._clock.monotonic()))
            with replicas.condition:
                first = member.end_stop()
                replicas.condition.notify_all()
            if first:
                replicas.monitors.tell("replica_stopped", how, member.id)


# An error of the target with one replica must not prevent stopping the others or closing the target.


def _begin_stop(replica: Replica) -> None:
    try:
        replica.begin_stop()
    except Exception as error:  # noqa: BLE001 - see above
        _log(replica, error)


def _finish_stop(replica: Replica, grace: float) -> str:
    """Stop *replica*. Return a remark for the event, "" if there is none."""
    try:
        left = replica.stop(grace)
    except Exception as error:  # noqa: BLE001 - see above
        _log(replica, error)
        return f"stopping it failed: {text_of(error)}"
    return f"{counted(left, 'call')} still {'runs' if left == 1 else 'run'}" if left else ""


def _log(replica: Replica, error: Exception) -> None:
    logging.getLogger("sage_plugins").error("replica %s could not be stopped", replica.id, exc_info=error)
