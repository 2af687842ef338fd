"""Makes the errors of calls that are given up; imported only when one is needed."""

from __future__ import annotations

import threading
from opcode import opname
from typing import TYPE_CHECKING

from sage_plugins.errors import CallCancelledError, CallTimeoutError, ServiceStoppedError
from sage_plugins.values import COROUTINES

if TYPE_CHECKING:
    from types import TracebackType

    from sage_plugins.call.call import Call

__all__ = [
    "abandon_inner",
    "cancelled_error",
    "no_item_text",
    "raised_by_signal",
    "stopped_error",
    "timeout_error",
    "timeout_text",
]


def raised_by_signal(error: BaseException) -> bool:
    """
    Return whether a signal handler raised *error* in this thread, in the middle of other code.

    A handler is recognized by its argument: the frame that it interrupted, which precedes it in the traceback. Python's
    own handler for Ctrl-C has no frame: its KeyboardInterrupt comes from an instruction that is not `raise`.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread runs signal handlers
        return False
    entry: TracebackType | None = error.__traceback__
    outer = None
    instruction = ""
    while entry is not None:
        frame = entry.tb_frame
        for value in frame.f_locals.values():
            if outer is None:
                break
            # `isinstance` would ask a proxy for its class, which may raise or connect to something.
            if value is outer or (issubclass(type(value), tuple) and any(each is outer for each in value)):
                return True
        instruction = opname[frame.f_code.co_code[entry.tb_lasti]]
        outer, entry = frame, entry.tb_next
    return type(error) is KeyboardInterrupt and instruction not in {"RAISE_VARARGS", "RERAISE"}


def abandon_inner(outer: Call) -> None:
    """
    Abandon the nested calls of *outer*, which was cancelled.

    Calls that its method makes from now on are not abandoned: the method may need them to clean up.
    """
    if outer.inner is not None:
        for found in outer.inner.valuerefs():
            call = found()
            if call is not None:
                call.abandon()


def timeout_error(call: Call, text: str, *, ended: bool) -> CallTimeoutError:
    """Return the error of a call that timed out before it started, or before it *ended*."""
    lane = call.lane
    return CallTimeoutError(
        text,
        stage="run" if ended else "queue",
        service=call.owner.service,
        method=call.method.name,
        replica=None if lane is None else lane.id,
        node=None if lane is None else lane.node,
    )


def timeout_text(call: Call, *, started: bool, ended: bool) -> str:
    """Return the message for the caller of a call that timed out."""
    who = _name(call)
    if not started:
        if call.owner.takes_calls():
            advice = "Add threads or replicas, raise `timeout`, or call less often"
        else:
            advice = "No replica takes calls now: the status of the service says why"
        return f"{who} waited {call.expires - call.since:.4g} s in the queue and did not start; it never will. {advice}"
    if ended:
        still = "it ended too late"
    elif call.method.kind in COROUTINES and call.batch is None:
        still = "its coroutine is cancelled"
    elif call.owner.kills:
        still = "the replica is killed if the method does not stop (timeout_strength is kill)"
    else:
        still = "the method may still be running and keeps its slot until it ends"
    return (
        f"{who} gave no answer in {call.deadline - call.since:.4g} s{_where(call)}; {still}. Raise `timeout` or make "
        "the method faster"
    )


def no_item_text(call: Call, item_timeout: float) -> str:
    """Return the message for a consumer that waited *item_timeout* seconds for an item of a stream."""
    return (
        f"{_name(call)} gave no item for {item_timeout:.4g} s{_where(call)}; its generator "
        "is ended when it next gives one. Raise `timeout` or make it give items sooner"
    )


def stopped_error(call: Call, replica: str, node: str | None) -> ServiceStoppedError:
    """Return the error of a call that *replica*, on *node*, had not answered when it stopped."""
    msg = (
        f"{_name(call)} was not answered by {replica} before the service stopped"
        f"{'' if call.unstarted() else '; it was still running and may have had its effect'}. Raise "
        "`drain_timeout` if calls take that long"
    )
    return ServiceStoppedError(msg, service=call.owner.service, method=call.method.name, replica=replica, node=node)


def cancelled_error(call: Call) -> CallCancelledError:
    """Return the error of a call that its caller cancelled."""
    return CallCancelledError(
        f"{_name(call)} was cancelled by its caller", service=call.owner.service, method=call.method.name
    )


def _name(call: Call) -> str:
    return f"{call.owner.service}.{call.method.name}"


def _where(call: Call) -> str:
    return "" if call.lane is None else f" (replica {call.lane.id})"
