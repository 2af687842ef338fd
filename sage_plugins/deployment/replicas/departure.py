"""Replicas of one service that leave: their calls finish, they stop, and what they have counted is kept."""

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

__all__ = ["Departure"]

#: Seconds that stop hooks and workers get when draining used up its time.
_LAST_GRACE_S: Final = 1.0


class Departure:
    """Stops replicas. All methods are safe from any thread, but none is to be called under `ReplicaSet.condition`."""

    def __init__(self, replicas: ReplicaSet) -> None:
        """Stop none yet; *replicas* are the service's."""
        self._replicas = replicas
        self._clock = replicas.clock

    # -- while the service goes on -----------------------------------------------------------------------------------

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
        replicas = self._replicas
        with replicas.condition:
            serving = [member for member in members if member.leave()]
        for member in serving:
            replicas.watchers.tell("replica_draining", reason, member.id)
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
        """Stop *members*, which have not served yet, and forget them."""
        replicas = self._replicas
        self._stop(members, _LAST_GRACE_S)
        replicas.forget(members)
        # They may have been the last hope when another one was given up.
        if members and any(each.state is ReplicaState.CRASH_LOOP for each in replicas.members):
            replicas.refuse_if_hopeless(members[-1])

    def vacate(self, member: Member, limit: float) -> None:
        """Send no more calls to *member*, give those that it has *limit* seconds, and stop it."""
        until = self._clock.monotonic() + limit
        idle = threading.Event()
        self._replicas.router.retire({member.lane: idle.set})
        idle.wait(limit)
        self._vacate([member], until - self._clock.monotonic())
        self.clean_up(member)

    def clean_up(self, member: Member) -> None:
        """Have the target let go of a replica that ended: if its constructor failed, its workers may live on."""
        if member.replica is not None:
            _begin_stop(member.replica)
            _finish_stop(member.replica, _LAST_GRACE_S)

    # -- at the end of the service -----------------------------------------------------------------------------------

    def vacate_all(self, limit: float) -> None:
        """Have the replicas take no calls of other processes, and wait at most *limit* seconds for those they have."""
        self._vacate(self._replicas.members, limit)

    def leave_all(self) -> None:
        """Have the replicas go on without this process, and stop those that nobody has waited for."""
        members, condition = self._replicas.members, self._replicas.condition
        staying = [each for each in members if each.been_ready and not each.ended and each.replica is not None]
        self._stop([each for each in members if each not in staying], _LAST_GRACE_S)
        for member in staying:
            cast("DetachableReplica", member.replica).leave()
            with condition:
                member.end_stop()
                condition.notify_all()
            self._replicas.watchers.tell("replica_left", "it goes on without this process", member.id)

    def stop_all(self, grace: float) -> None:
        """Stop all replicas, in reverse order, within *grace* seconds together, but at least one."""
        self._stop(self._replicas.members[::-1], max(grace, _LAST_GRACE_S))

    # -- how ---------------------------------------------------------------------------------------------------------

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
        with replicas.starting:  # one that is being started this moment must be there to be stopped
            started = [(member, member.replica) for member in members if member.replica is not None]
        # Asked first and waited for afterwards, so that one that is stuck takes no time from the others.
        for _, replica in started:
            _begin_stop(replica)
        for member, replica in started:
            how = _finish_stop(replica, max(0.0, until - self._clock.monotonic()))
            with replicas.condition:
                first = member.end_stop()
                replicas.condition.notify_all()
            if first:
                replicas.watchers.tell("replica_stopped", how, member.id)


# A target's mistake with one replica must not keep the others from being stopped, nor the target from being closed.


def _begin_stop(replica: Replica) -> None:
    try:
        replica.begin_stop()
    except Exception as error:  # noqa: BLE001 - see above
        _log(replica, error)


def _finish_stop(replica: Replica, grace: float) -> str:
    """Stop it; gives what is to be said of that, "" if nothing."""
    try:
        left = replica.stop(grace)
    except Exception as error:  # noqa: BLE001 - see above
        _log(replica, error)
        return f"stopping it failed: {text_of(error)}"
    return f"{counted(left, 'call')} still {'runs' if left == 1 else 'run'}" if left else ""


def _log(replica: Replica, error: Exception) -> None:
    logging.getLogger("sage_plugins").error("replica %s could not be stopped", replica.id, exc_info=error)
