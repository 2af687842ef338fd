"""
Sees how each call ends, for a circuit breaker and for ejection, at the price of one function call.

A call that is watched is of a subclass, which sees when its end is stored. Calls of services without such guards are of
the plain class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sage_plugins.call.lazy_future import LazyFuture
from sage_plugins.errors import (
    CallCancelledError,
    CallError,
    CallTimeoutError,
    OverloadedError,
    ReplicaDiedError,
    ServiceStoppedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call
    from sage_plugins.routing.guarding.breaking import Breaking

__all__ = ["Watching", "fault_of"]

#: The slot of the plain class, which the property below covers: it is set once, when the call ends.
_EXCEPTION: Final[Any] = vars(LazyFuture)["_exception"]


class Watching:
    """Makes the classes of calls that are watched. From any thread."""

    def __init__(
        self,
        answered: Callable[[Any], None] | None,
        failed: Callable[[Any, BaseException], None],
        breaking: Breaking | None = None,
    ) -> None:
        """
        Have made none yet.

        Args:
            answered: Told of a call that ends with a result, before its caller is; None if nobody wants to know.
            failed: Told of a call that ends with an error, likewise.
            breaking: Told of results while it wants to know; None if there is no circuit breaker.
        """
        self._answered = answered
        self._failed = failed
        self._breaking = breaking
        self._kinds: dict[type, Any] = {}  # the watched class of each class of calls

    def watched(self, kind: Any) -> Any:
        """The subclass of a class of calls whose ends are seen."""
        found = self._kinds.get(kind)
        if found is not None:
            return found
        answered, failed, store = self._answered, self._failed, _EXCEPTION.__set__
        breaking: Any = self._breaking
        circuit = None if breaking is None else breaking.circuit

        def end(call: Any, error: BaseException | None) -> None:
            store(call, error)
            if error is not None:
                failed(call, error)
            else:
                if circuit is not None and circuit.watches:
                    breaking.answered(call)
                if answered is not None:
                    answered(call)

        watched = {"__slots__": (), "_exception": property(_EXCEPTION.__get__, end)}
        found = type(f"Watched{kind.__name__}", (kind,), watched)
        self._kinds[kind] = found
        return found


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
