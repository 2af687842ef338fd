"""Whose fault it is that a call failed, for a circuit breaker and for ejection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_plugins.errors import (
    CallCancelledError,
    CallError,
    CallTimeoutError,
    OverloadedError,
    ReplicaDiedError,
    ServiceStoppedError,
)

if TYPE_CHECKING:
    from sage_plugins.call.call import Call

__all__ = ["fault_of"]


def fault_of(call: Call, error: BaseException, service: str) -> bool | None:
    """
    Whether *call* of *service* ended with *error* because its replica died or took too long.

    None: it says nothing of the service, because its caller gave it up, or it was not accepted or not started.
    """
    if call.turned_away is error:
        return None
    if isinstance(error, CallError) and error.service == service:  # else it is of a call that the method made
        if isinstance(error, ReplicaDiedError):
            return True
        if isinstance(error, CallTimeoutError):
            return True if error.stage == "run" else None  # one that waited for all of its time is overload
        if isinstance(error, (CallCancelledError, OverloadedError, ServiceStoppedError)):
            return None
    return False
