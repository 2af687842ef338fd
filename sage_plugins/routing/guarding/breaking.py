"""Refuses the calls of a service that keeps failing: what `resilience.circuit` decides, done with a router's calls."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.call.lazy_future import LazyFuture
from sage_plugins.errors import (
    CallCancelledError,
    CallError,
    CallTimeoutError,
    CircuitOpenError,
    OverloadedError,
    ReplicaDiedError,
    ServiceStoppedError,
)
from sage_plugins.event_kinds import EventKind
from sage_plugins.resilience.circuit import CLOSED, HALF_OPEN, OPEN, Circuit, Stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call
    from sage_plugins.config.nested_keys import BreakerPolicy, RetryPolicy
    from sage_plugins.routing.guarding.parts import Parts, Tell

__all__ = ["Breaking"]

#: The slot of the plain class, which the property below covers.
_OVER: Final[Any] = vars(LazyFuture)["_over"]

_KINDS: Final = {
    OPEN: EventKind.CIRCUIT_OPENED,
    HALF_OPEN: EventKind.CIRCUIT_HALF_OPEN,
    CLOSED: EventKind.CIRCUIT_CLOSED,
}


class Breaking:
    """The circuit breaker of one router. From any thread."""

    def __init__(self, policy: BreakerPolicy, retry: RetryPolicy | None, parts: Parts, tell: Tell) -> None:
        """
        Be closed.

        Args:
            policy: When it opens, and for how long.
            retry: Says which exceptions are the service's fault.
            parts: Those of the router.
            tell: Told of every change.
        """
        self._retry = retry
        self._parts = parts
        self._tell = tell
        self._circuit = Circuit(policy)
        self._lock = threading.RLock()
        self._probes: dict[Call, int] = {}
        self._kinds: dict[type, Any] = {}  # the watched class of each class of calls

    def guard(self, route: Callable[[Call], bool]) -> Callable[[Call], bool]:
        """*route*, for calls that may go through; the others are refused."""
        circuit, kinds, watched, admit = self._circuit, self._kinds, self._watched, self._admit

        def guarded(call: Call) -> bool:
            if circuit.state is not CLOSED:
                admit(call)
            kind = type(call)
            try:
                call.__class__ = kinds[kind]
            except KeyError:
                call.__class__ = watched(kind)
            try:
                return route(call)
            except BaseException:  # it was not accepted
                self._ended(call, None)
                raise

        return guarded

    def _admit(self, call: Call) -> None:
        now = self._parts.clock.monotonic()
        with self._lock:
            found = self._circuit.admit(now)
            if not isinstance(found, Stopped) and found.probe:
                self._probes[call] = found.probe
        self._say()
        if isinstance(found, Stopped):
            service, method = self._parts.service, call.method.name
            self._parts.refused(call.method.index, "circuit_open")
            msg = (
                f"{service}.{method} was not run: the service has failed too often of late, and its circuit breaker "
                f"lets no call through: {found.reason}. Call again after {found.retry_after:.3g} s"
            )
            raise CircuitOpenError(msg, retry_after=found.retry_after, service=service, method=method)

    def _watched(self, kind: Any) -> Any:
        """The subclass of a class of calls whose ends the breaker sees."""
        circuit, ended, store = self._circuit, self._ended, _OVER.__set__

        def set_over(call: Any, over: int) -> None:
            error = call._exception  # noqa: SLF001 - stored before the call is over
            if error is not None or circuit.watches:
                ended(call, self._fault_of(call, error))
            store(call, over)

        found = type(f"Guarded{kind.__name__}", (kind,), {"__slots__": (), "_over": property(_OVER.__get__, set_over)})
        self._kinds[kind] = self._kinds[found] = found  # a call may be routed once more
        return found

    def _fault_of(self, call: Call, error: BaseException | None) -> bool | None:
        """Whether a call that ended with *error* failed by the service's fault; None if it says nothing of that."""
        if error is None:
            return False
        if isinstance(error, CallError) and error.service == self._parts.service:
            if isinstance(error, ReplicaDiedError):
                return True
            if isinstance(error, CallTimeoutError):
                return True if error.stage == "run" else None  # one that waited for all of its time is overload
            if isinstance(error, (CallCancelledError, OverloadedError, ServiceStoppedError)):
                return None
        if call.turned_away is error:
            return None
        return self._retry is not None and self._retry.matches(error)

    def _ended(self, call: Call, fault: bool | None) -> None:  # noqa: FBT001 - as `_fault_of` gives it
        with self._lock:
            probe = self._probes.pop(call, 0)
            if fault is None:
                self._circuit.said_nothing(probe)
            elif fault:
                self._circuit.failed(self._parts.clock.monotonic(), probe)
            else:
                self._circuit.succeeded(probe)
        self._say()

    def _say(self) -> None:
        while self._circuit.changes:
            try:
                state, why = self._circuit.changes.popleft()
            except IndexError:  # another thread tells it
                return
            self._tell(_KINDS[state], f"the circuit breaker is {state.replace('_', ' ')}: {why}", None)
