"""
Tells a balancer how each call that it placed has ended.

An observed call becomes an instance of a subclass, which sees when the call gets a slot and when it ends. All other
calls keep the plain class, so a service whose balancer does not observe pays nothing.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sage_plugins.call.call import Call
from sage_plugins.call.lazy_future import LazyFuture
from sage_plugins.errors import CallCancelledError, CallError, CallTimeoutError, ReplicaDiedError, ServiceStoppedError
from sage_plugins.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.interfaces import Candidate

__all__ = ["Observe", "observe_end"]

#: As `interfaces.ObservingBalancer.observe`.
Observe: TypeAlias = "Callable[[Candidate, str, int, float, float], None]"

# The slots of the plain class, which the properties below cover.
_LANE: Final[Any] = vars(Call)["lane"]
_OVER: Final[Any] = vars(LazyFuture)["_over"]

#: The outcome of a call, by the class of the error with which it ended.
_OUTCOMES: Final = (
    (CallTimeoutError, Outcome.TIMEOUT),
    (CallCancelledError, Outcome.CANCELLED),
    (ReplicaDiedError, Outcome.DIED),
    (ServiceStoppedError, Outcome.STOPPED),
)


class _Observed:
    """Mixed into the class of an observed call: measures its times and reports its end."""

    __slots__ = ()

    if TYPE_CHECKING:
        observe: Observe
        sent_at: float

    @property
    def lane(self) -> Any:
        return _LANE.__get__(self)

    @lane.setter
    def lane(self, lane: Any) -> None:
        call: Any = self
        call.sent_at = call.owner.clock.monotonic()
        _LANE.__set__(self, lane)

    @property
    def _over(self) -> Any:
        return _OVER.__get__(self)

    @_over.setter
    def _over(self, over: int) -> None:
        call: Any = self
        lane = _LANE.__get__(self)
        if lane is not None:  # without a slot, its end says nothing about a replica
            sent_at = self.sent_at
            run_s = call.owner.clock.monotonic() - sent_at
            self.observe(lane, call.method.name, _outcome(call), sent_at - call.since, run_s)
        _OVER.__set__(self, over)


def observe_end(call: Call, observe: Observe) -> None:
    """Make *call*, which will be sent, report its end to *observe*, which must not raise."""
    kind: Any = type(call)
    if not issubclass(kind, _Observed):
        call.__dict__["observe"] = observe
        call.__class__ = _observed(kind)


@cache
def _observed(kind: Any) -> type[Call]:
    """Return the observed subclass of a class of calls."""
    return type(f"Observed{kind.__name__}", (_Observed, kind), {"__slots__": ()})


def _outcome(call: Any) -> int:
    error = call._exception  # noqa: SLF001 - it is stored before `_over` is set
    if error is None:
        return Outcome.OK
    if (
        isinstance(error, CallError) and error.service == call.owner.service
    ):  # otherwise the error comes from a nested call, and the method raised it
        for kind, outcome in _OUTCOMES:
            if isinstance(error, kind):
                return outcome
    return Outcome.ERROR
