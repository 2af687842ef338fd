"""The circuit breaker of a router: refuses calls of a service that keeps failing, as `resilience.circuit` decides."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Final

from sage_plugins.errors import CircuitOpenError
from sage_plugins.event_kinds import EventKind
from sage_plugins.resilience.circuit import CLOSED, HALF_OPEN, OPEN, Circuit, Rejected
from sage_plugins.routing.guarding.faults import fault_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call
    from sage_plugins.config.nested_keys import BreakerPolicy, RetryPolicy
    from sage_plugins.routing.guarding.parts import Parts, Tell

__all__ = ["Breaking"]

_KINDS: Final = {
    OPEN: EventKind.CIRCUIT_OPENED,
    HALF_OPEN: EventKind.CIRCUIT_HALF_OPEN,
    CLOSED: EventKind.CIRCUIT_CLOSED,
}


class Breaking:
    """
    The circuit breaker of one router. Thread-safe.

    Attributes:
        circuit: The state machine that decides.
    """

    def __init__(self, policy: BreakerPolicy, retry: RetryPolicy | None, parts: Parts, tell: Tell) -> None:
        self._retry = retry
        self._parts = parts
        self._tell = tell
        self.circuit = Circuit(policy)
        self._lock = threading.RLock()
        self._probes: dict[Call, int] = {}
        # The listeners that were set before. They still get all results and errors. The circuit itself needs results
        # only at times.
        self._told_too = parts.owner.on_result, parts.owner.on_error
        parts.owner.on_error = self._failed

    def guard(self, route: Callable[[Call], bool]) -> Callable[[Call], bool]:
        """Wrap *route* so that the circuit refuses calls unless it admits them; a closed circuit adds nothing."""
        return route if self.circuit.state is CLOSED else partial(self._route_admitted, route)

    def _route_admitted(self, route: Callable[[Call], bool], call: Call) -> bool:
        self._admit(call)
        try:
            return route(call)
        except BaseException:  # the call was not accepted
            self._ended(call, None)
            raise

    def _admit(self, call: Call) -> None:
        now = self._parts.clock.monotonic()
        with self._lock:
            found = self.circuit.admit(now)
            if not isinstance(found, Rejected) and found.probe:
                self._probes[call] = found.probe
        self._say()
        if isinstance(found, Rejected):
            service, method = self._parts.service, call.method.name
            self._parts.refused(call.method.index, "circuit_open")
            msg = (
                f"{service}.{method} was not run: the service has failed too often, and its circuit breaker "
                f"lets no call through: {found.reason}. Call again after {found.retry_after:.3g} s"
            )
            raise CircuitOpenError(msg, retry_after=found.retry_after, service=service, method=method)

    def _answered(self, call: Call, _: None) -> None:
        self._ended(call, fault=False)
        if self._told_too[0] is not None:
            self._told_too[0](call, None)

    def _failed(self, call: Call, error: BaseException) -> None:
        fault = fault_of(call, error, self._parts.service)
        self._ended(call, fault or (self._retry.matches(error) if fault is False and self._retry else fault))
        if self._told_too[1] is not None:
            self._told_too[1](call, error)

    def _ended(self, call: Call, fault: bool | None) -> None:  # noqa: FBT001 - as `fault_of` returns it
        circuit, owner = self.circuit, self._parts.owner
        with self._lock:
            was_closed = circuit.state is CLOSED
            probe = self._probes.pop(call, 0)
            if fault is None:
                circuit.inconclusive(probe)
            elif fault:
                circuit.failed(self._parts.clock.monotonic(), probe)
            else:
                circuit.succeeded(probe)
            owner.on_result = self._answered if circuit.watches else self._told_too[0]
            changed = was_closed is not (circuit.state is CLOSED)
        if changed:
            self._parts.reroute()  # before the caller can make its next call
        self._say()

    def _say(self) -> None:
        while self.circuit.changes:
            try:
                state, why = self.circuit.changes.popleft()
            except IndexError:  # another thread reports it
                return
            self._tell(_KINDS[state], f"the circuit breaker is {state.replace('_', ' ')}: {why}", None)
