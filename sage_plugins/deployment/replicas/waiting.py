"""Waits for replicas: until they are ready, and for their answers to questions."""

from __future__ import annotations

import threading
from concurrent.futures import wait as wait_for
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sage_plugins.call import deadlock
from sage_plugins.deployment.replicas.canary import UNANSWERED
from sage_plugins.deployment.replicas.member import ANSWER_S, Member
from sage_plugins.errors import DeployError, text_of
from sage_plugins.threads import future_of
from sage_plugins.values import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_plugins.deployment.replicas.replica_set import ReplicaSet
    from sage_plugins.interfaces.operations import MethodError

__all__ = ["Readiness", "errors_of", "raised_at", "stats_of", "tell_logs"]

_Answer = TypeVar("_Answer")

#: Why a replica is not ready if no other reason is known.
_BEING_BUILT: Final = (
    "the constructor or a start hook still runs. Raise `startup_timeout` (in an update `update.progress_deadline`) if "
    "it needs that long"
)
_HOOKS_WAIT: Final = (
    "the constructor or a start hook waits for {}, which never comes if that waits for this service in turn. Use "
    "`submit` in the hook and do not wait for the result, or make the call in a method instead"
)


class Readiness:
    """Waits until replicas of one service are ready. From any thread."""

    def __init__(self, replicas: ReplicaSet) -> None:
        self._replicas = replicas
        self._name = replicas.name
        self._clock = replicas.clock
        self._reports_progress = "reports_progress" in replicas.composition.target.registration.capabilities

    def wait(self, members: Sequence[Member], limit: float, over: Callable[[], bool] = lambda: False) -> None:
        """
        Wait until all of *members* are ready.

        Args:
            members: The replicas.
            limit: Seconds to wait.
            over: Returns whether all were ready at some earlier moment, which ends the wait too. Called under
                `condition`.

        Raises:
            DeployError: A replica failed (raised from its constructor's error) or was not ready in time, or the service
                was stopped.
        """
        until = self._clock.monotonic() + limit
        condition = self._replicas.condition
        with condition:
            while not over() and (
                late := [each for each in members if not (each.in_service or (each.held and each.up))]
            ):
                failed = next((each for each in members if each.state is ReplicaState.FAILED), None)
                if failed is not None:
                    raise self.why_failed(failed)
                self._replicas.check_wanted()
                remaining = until - self._clock.monotonic()
                if remaining <= 0:
                    break
                condition.wait(min(remaining, threading.TIMEOUT_MAX))
            else:
                return
        raise self.not_ready(late, limit)

    def not_ready(self, late: Sequence[Member], limit: float) -> DeployError:
        """
        Return the error for replicas that are not ready after *limit* seconds, with all known details.

        Asks the replicas, which may take two seconds; never call it under `condition`.
        """
        progress: dict[Member, str] = {each: "" if each.canary is None else UNANSWERED for each in late}
        if self._reports_progress:
            building = [each for each in late if each.canary is None]
            silent = dict.fromkeys(building, "it does not report its progress")  # for a cluster that is silent
            progress |= {**silent, **_ask(building, Member.progress, 2 * ANSWER_S)}
        elsewhere = self._replicas.reach.awaited_by_hooks()
        together: dict[str, list[str]] = {}
        for member in late:
            awaited = deadlock.awaited_by_hooks(member.lane) or elsewhere
            hooks = _HOOKS_WAIT.format(", ".join(awaited)) if awaited else _BEING_BUILT
            together.setdefault(progress[member] or hooks, []).append(member.id)
        found = ". ".join(f"{', '.join(ids)} not ready after {limit:g} s; {why}" for why, ids in together.items())
        replica = late[0].id if len(late) == 1 else None
        return DeployError(f"service '{self._name}': {found}", service=self._name, replica=replica)

    def why_failed(self, member: Member) -> DeployError:
        """Return the error for a replica that ended before it was ready, with the replica's error as the cause."""
        cause = member.cause
        if member.has_started and isinstance(cause, DeployError):  # its canary failed
            return DeployError(f"service '{self._name}': {cause}", service=self._name, replica=member.id)
        where = raised_at(cause)
        where = f" ({where})" if where else ""
        hints = "".join(f"; {note}" for note in getattr(cause, "__notes__", ()))
        who = f"service '{self._name}' replica {member.spec.index}"
        msg = f"while constructing {who}: {text_of(cause)}{where}{hints}"
        error = DeployError(msg, service=self._name, replica=member.id)
        error.__cause__ = cause
        return error


def stats_of(members: Sequence[Member], *, in_process: bool) -> list[Mapping[str, Any]]:
    """
    Return `Member.stats` of each of *members*. Asks them all at once, and waits at most one second.

    Args:
        members: The replicas.
        in_process: Whether they are in this process. Then no answer needs waiting for.
    """
    if in_process:
        return [member.stats() for member in members]
    answers = _ask(members, Member.stats, ANSWER_S)
    return [answers.get(member) or member.last_stats for member in members]


def tell_logs(members: Sequence[Member]) -> None:
    """Fetch the log lines of *members* from their processes and log them here, oldest first; waits at most a second."""
    found = _ask(members, Member.logs, ANSWER_S)
    lines = [(line.time_s, member, line) for member, each in found.items() for line in each]
    for _, member, line in sorted(lines, key=itemgetter(0)):
        member.tell_log(line)


def errors_of(members: Sequence[Member], *, in_process: bool) -> list[Sequence[MethodError]]:
    """Return `Member.errors` of each of *members* that answers; waits as `stats_of`."""
    if in_process:
        return [member.errors() for member in members]
    return list(_ask(members, Member.errors, ANSWER_S).values())


def _ask(members: Sequence[Member], question: Callable[[Member], _Answer], limit: float) -> Mapping[Member, _Answer]:
    """Ask all *members* at once, and return the answers that arrive within *limit* seconds."""
    asked = {member: future_of(partial(question, member), f"{member.id}-asked") for member in members}
    done, _ = wait_for(asked.values(), limit)
    return {member: answer.result() for member, answer in asked.items() if answer in done and not answer.exception()}


def raised_at(error: BaseException | None) -> str:
    """
    Return where *error* was raised, as `file:line`: the innermost line outside this project's packages; "" if none.

    It recognizes packages by name, because each distribution may be installed in a different folder.
    """
    where = ""
    trace = None if error is None else error.__traceback__
    while trace is not None:
        package = str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0]
        if package != "sage_plugins" and not package.startswith("sage_deploy_"):
            where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return where
