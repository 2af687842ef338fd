"""Sends a canary, a no-op on the path of calls, to each new replica in another process before it gets calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sage_plugins.errors import DeployError, ServiceStoppedError, text_of
from sage_plugins.host.lifecycle import answer_canary
from sage_plugins.threads import CALLBACKS
from sage_plugins.values import ReplicaState

if TYPE_CHECKING:
    from sage_plugins.deployment.replicas.member import Member
    from sage_plugins.host.lifecycle import Canary
    from sage_plugins.interfaces import Replica

__all__ = ["UNANSWERED", "send_canary"]

#: Why a replica is not ready, although its target reported it ready.
UNANSWERED: Final = (
    "it has started, but its canary was not answered: a no-op that takes the path of every call, over link, slot "
    "and worker. See its log. If you wrote its target, check that calls reach a worker and answers come back"
)


def send_canary(member: Member, canary: Canary, replica: Replica) -> None:
    """
    Send *canary* to *replica*, which is the target's side of *member*; return at once.

    The replica becomes ready when the canary is answered. If the canary ends with an error, the replica fails.
    """

    def end() -> None:
        error = canary.exception_now()
        if error is None:
            member.may_open = True
            member.changed(ReplicaState.READY)
        elif not isinstance(error, ServiceStoppedError):
            _fail(member, error)

    # In a separate thread: the thread that brings this answer may also read the answers of all calls.
    canary.on_settled(lambda: CALLBACKS.run(end))
    if replica.run_here is not None:  # callers run their calls themselves, so there is no path to test
        answer_canary(canary)
        return
    try:
        replica.send(canary)
    except Exception as error:  # noqa: BLE001 - whatever the target raises, the replica is unusable
        _fail(member, error)


def _fail(member: Member, cause: BaseException) -> None:
    msg = (
        f"replica {member.id} has started, but its canary, a no-op that takes the path of every call, failed: "
        f"{text_of(cause)}"
    )
    error = DeployError(msg, service=member.spec.service, replica=member.id)
    error.__cause__ = cause
    member.changed(ReplicaState.FAILED, error)
