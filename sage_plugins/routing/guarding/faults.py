"""Decides whether a failed call is the replica's fault, for the circuit breaker and for ejection."""

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
    Return whether *call* of *service* ended with *error* because its replica died or took too long.

    None means that the call says nothing about the service: its caller gave it up, or it was not accepted, or it did
    not start.
    """
    if call.turned_away is error:
        return None
    if isinstance(error, CallError) and error.service == service:  # otherwise it comes from a nested call
        if isinstance(error, ReplicaDiedError):
            return True
        if isinstance(error, CallTimeoutError):
            return True if error.stage == "run" else None  # a timeout in the queue means overload, not a fault
        if isinstance(error, (CallCancelledError, OverloadedError, ServiceStoppedError)):
            return None
    return False
