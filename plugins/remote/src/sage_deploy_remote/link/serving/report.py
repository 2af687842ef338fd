"""Reports what a host does to the callers in other processes: answers of calls, and the end of work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_deploy_remote.link import protocol
from sage_plugins.call.call import Call
from sage_plugins.call.stream import StreamCall
from sage_plugins.host.lifecycle import CANARY, answer_canary
from sage_plugins.interfaces.targets import QuietEvents
from sage_plugins.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_deploy_remote.link.protocol import Reply
    from sage_deploy_remote.link.serving.callers import Mailbox
    from sage_deploy_remote.link.serving.calls import CallServer
    from sage_deploy_remote.link.serving.server import ReplicaServer
    from sage_deploy_remote.link.serving.units import CallGroup
    from sage_plugins.values import ReplicaState

__all__ = ["HostEvents", "Report", "ServedCall", "ServedStream", "report_of"]


class HostEvents(QuietEvents):
    """
    `interfaces.ReplicaEvents` for a host whose callers are in other processes; it refuses, loses and returns no work.
    """

    def __init__(self, server: ReplicaServer, find_service: Callable[[str], Any]) -> None:
        self._server = server
        self.service: Any = find_service
        self.freed: Callable[[Any], None] = self._freed
        # Calls wait at their callers, except those that were sent ahead.
        self.follow: Callable[[Any], Any | None] = server.work_ended

    def _freed(self, ended: Any) -> None:
        following = self._server.work_ended(ended)
        if following is not None:
            self._server.host.put(following)

    def changed(self, state: ReplicaState, cause: BaseException | None = None) -> None:
        """Handle a change of the host's state."""
        self._server.changed(state, cause)


class Report:
    """
    Answers the caller of one call when the call is over.

    The thread that ends the call packs the answer before the next call starts, because that call might change the
    returned object.

    Attributes:
        mailbox: Where the answer goes.
        id: The caller's number for the call.
        outcome: The outcome with which the call was given up; None if it was not.
        runs_on: Whether its method had started then.
        caller_knows: Whether the caller knows that, because it gave up the call itself.
        seconds_since_made: Seconds since the call was made, if its caller reported them.
        unit: The unit that has the call and others; None if the call is the only one.
        returned: Whether the call, which was sent ahead, went back to its caller unstarted.
        late: Whether its arguments have not arrived yet.
        uncounted: Whether its caller either retries it or counts it.
    """

    __slots__ = (
        "_call",
        "_server",
        "caller_knows",
        "id",
        "late",
        "mailbox",
        "outcome",
        "returned",
        "runs_on",
        "seconds_since_made",
        "uncounted",
        "unit",
    )

    def __init__(self, server: CallServer, mailbox: Mailbox, id: int, call: Call, unit: CallGroup | None) -> None:
        self.mailbox = mailbox
        self.id = id
        self.outcome: int | None = None
        self.runs_on = False
        self.caller_knows = False
        self.seconds_since_made: float | None = None
        self._server = server
        self._call: Call | None = call
        self.unit = unit
        self.returned = False
        self.late = False
        self.uncounted = False

    def send(self) -> None:
        """Answer the caller, because the call is over; see `Call.on_settled`."""
        # The call refers to this report. References in both directions would leave every call to the garbage collector.
        call, self._call = self._call, None
        assert call is not None  # noqa: S101 - for the type checker: a call ends once
        self._report(call)
        if self.outcome == Outcome.TIMEOUT and self.runs_on:
            self._server.deadline_passed(call)
        if self.late:  # only its slot still waits for its arguments
            self._server.late.stop_waiting(call)
        self._server.wake_vacate()

    def _report(self, call: Call) -> None:
        error = call.exception_now()
        name = call.method.name
        if self.outcome is not None:
            if not self.caller_knows:
                assert error is not None  # noqa: S101 - for the type checker: giving up takes an error
                self.mailbox.post(
                    (protocol.GAVE_UP, self.id, self._server.packer.pack_error(error, name), self.outcome)
                )
            if self.unit is not None:
                self.mailbox.forget(self.id)
                self.unit.count_event()
            return
        reply: Reply
        timing: tuple[Any, ...]
        try:
            run_s = call.ended - call.began
            timing = ((call.began - call.since, run_s),)
            self._server.note_quick(call.method.index, run_s)
        except AttributeError:  # its method did not start
            timing = ()
        if error is None:
            try:
                reply = (protocol.DONE, self.id, self._server.packer.pack_result(call.result_now(), name), *timing)
            except BaseException as raised:  # noqa: BLE001 - a user's __reduce__ may raise anything
                error = raised
        if error is not None:
            reply = (protocol.FAILED, self.id, self._server.packer.pack_error(error, name), *timing)
            if self.uncounted:
                reply += (True,)
        self.mailbox.forget(self.id)
        if self.unit is None:  # the answer frees its slot
            self.mailbox.end_unit(reply)
        else:
            self._answer_in(self.unit, reply, call if timing else None)

    def _answer_in(self, unit: CallGroup, reply: Reply, ran: Call | None) -> None:
        """
        Answer a call of *unit*, at once or together with the next answer.

        Args:
            unit: The unit.
            reply: The answer.
            ran: The call if its method has started, else None.
        """
        waits = unit.is_ending or (ran is not None and unit.delays_answer(ran, self._server.quick_methods))
        if waits and unit.reports_starts:  # the next call could end the process before the answer is sent
            self.mailbox.journal_or_send(reply)
        else:
            self.mailbox.post(reply, wakes=not waits)
        unit.count_event()


class ServedCall(Call):
    """A call from another process that runs here."""

    __slots__ = ("report",)

    report: Report

    def expire(self) -> bool:
        """As `Call.expire`; a canary, whose deadline has always passed, is answered instead."""
        if self.method is not CANARY:
            return super().expire()
        answer_canary(self)
        return True


class ServedStream(StreamCall):
    """A `ServedCall` of a method that yields items."""

    __slots__ = ("report",)

    report: Report


def report_of(call: Call) -> Report:
    """Return the report of *call*, which a `CallServer` has made."""
    assert isinstance(call, (ServedCall, ServedStream))  # noqa: S101 - for the type checker
    return call.report
