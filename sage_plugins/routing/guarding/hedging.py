"""
Gives slow calls a second attempt on another replica: when `resilience.hedges` and the budget of retries say so.

The second attempt is a `Hedge`, a call of its own, sent to a free slot. It shares one thing with the caller's call: the
token that decides the outcome. Whoever has run its method takes it, as for every call, and is counted where it ran; the
other one finds it gone and is dropped, as if its caller had given it up, and not counted. So there is one outcome and
one count, whoever is first, and whatever ends the caller's call otherwise.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from sage_plugins.call import call as calls
from sage_plugins.call.call import Call
from sage_plugins.call.owner import CallOwner
from sage_plugins.event_kinds import EventKind
from sage_plugins.resilience.hedges import Delays
from sage_plugins.resilience.retries import NoRetry
from sage_plugins.routing.prefetch import may_run_twice
from sage_plugins.values import GENERATORS, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from sage_plugins.clock import Timer
    from sage_plugins.config.nested_keys import HedgePolicy
    from sage_plugins.routing.guarding.parts import Parts, RateLimitedTell
    from sage_plugins.routing.guarding.retrying import Budget

__all__ = ["Hedge", "Hedging"]


class Hedge(Call):
    """
    The second attempt of a call.

    It settles nothing but its call's outcome, and never waits: what its replica loses, refuses or gives up is dropped.

    Attributes:
        first: The caller's call.
        gone: Whether its work is over without an outcome; guarded by the lanes' lock, as the next.
        counted: Whether its slot counts as abandoned.
    """

    first: Call
    gone: bool = False
    counted: bool = False

    @property
    def _unsettled(self) -> bool:
        return self.first._unsettled  # noqa: SLF001 - the token of the first attempt is that of both

    @_unsettled.setter
    def _unsettled(self, _: bool) -> None:
        """The constructor's; it gives the call no token of its own."""

    @_unsettled.deleter
    def _unsettled(self) -> None:
        del self.first._unsettled  # noqa: SLF001 - likewise

    def give_up(self, error: BaseException, outcome: int, *, only_unstarted: bool = False) -> bool:  # noqa: ARG002 - as `Call`'s
        """Its replica will not answer it; its call goes on."""
        if self.claim():
            self.owner.abandoned_ended(self)  # it will never run
        return True

    def unstarted(self) -> bool:
        """As `Call.unstarted`; False, for it waits nowhere."""
        return False

    def allow_second_start(self) -> bool:
        """As `Call.allow_second_start`: it is not sent again."""
        return False

    def mark_unstarted(self) -> bool:
        """As `Call.mark_unstarted`: it is not sent again."""
        return False


class _Owner(CallOwner):
    """What a second attempt asks of its router."""

    def __init__(self, parts: Parts) -> None:
        self.service = parts.service
        self.clock = parts.clock
        self._parts = parts

    def gave_up(self, call: Call, outcome: int, *, started: bool) -> None:
        """Nothing: nobody gives it up but `Hedging`."""

    def failed(self, call: Call, error: BaseException) -> Callable[[], None] | None:  # noqa: ARG002 - as `CallOwner`'s
        """It raised what the first attempt may yet do without: it is dropped."""
        return _nothing

    def abandoned_ended(self, call: Any) -> None:
        """Its work has ended, or its replica has refused it."""
        with self._parts.lanes.lock:
            call.gone = True
            if call.counted:
                call.counted = False
                call.lane.count_abandoned(-1)


class _Due(NamedTuple):
    """A call that may get a second attempt, and the variables of its caller as they were before it ran."""

    at: float
    call: weakref.ref[Call]
    context: Context | None


class Hedging:
    """Gives the calls of one service second attempts. From any thread."""

    def __init__(
        self,
        policy: HedgePolicy,
        parts: Parts,
        budget: Budget,
        tell: RateLimitedTell,
    ) -> None:
        """
        Know of no call.

        Args:
            policy: When.
            parts: Those of the router.
            budget: Says whether there may be one more attempt.
            tell: Told of the decisions.
        """
        self._parts = parts
        self._budget = budget
        self._tell = tell
        self._delays = Delays(policy.delay)
        self._owner = _Owner(parts)
        self._lock = threading.RLock()
        self._due: dict[int, deque[_Due]] = {}  # by method: the delay is the same, so they come in order
        self._timer: Timer | None = None
        self._timer_at = 0.0

    def guard(self, route: Callable[[Call], bool]) -> Callable[[Call], bool]:
        """*route*, with each call noted that may get a second attempt: none whose caller runs it."""
        serving = self._parts.lanes.serving
        if serving and all(lane.run_here is not None for lane in serving):
            return route
        delays, note = self._delays, self._note

        def hedged(call: Call) -> bool:
            if not may_run_twice(call) or call.method.kind in GENERATORS or call.method.batch is not None:
                return route(call)
            index = call.method.index
            if delays.should_measure(index, call.since):
                call.on_over(self._measured)
            delay = delays.of(index)
            if delay is None or call.since + delay >= call.deadline:
                return route(call)
            context = call.context
            due = _Due(call.since + delay, weakref.ref(call), None if context is None else context.copy())
            accepted = route(call)
            if not call.over():
                note(index, due)
            return accepted

        return hedged

    def end(self) -> None:
        """The router has come to its end."""
        with self._lock:
            self._due.clear()
            if self._timer is not None:
                self._timer.cancel()

    def _measured(self, call: Any) -> None:
        if call.exception_now() is None:
            self._delays.took(call.method.index, self._parts.clock.monotonic() - call.since)

    # -- when calls are due ------------------------------------------------------------------------------------------

    def _note(self, method: int, due: _Due) -> None:
        with self._lock:
            self._due.setdefault(method, deque()).append(due)
            if self._timer is None or due.at < self._timer_at:
                self._set_timer(due.at)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._parts.clock.call_at(at, self._look), at

    def _look(self) -> None:
        """The time of some calls has come."""
        now, found = self._parts.clock.monotonic(), []
        with self._lock:
            self._timer = None
            for row in self._due.values():
                # Of a percentile that has just become smaller some are a little late.
                while row and (row[0].at <= now or row[0].call() is None):
                    found.append(row.popleft())
            if heads := [row[0].at for row in self._due.values() if row]:
                self._set_timer(min(heads))
        for due in found:
            call = due.call()
            if call is not None and call.runs() and call.lane.run_here is None and call.bundle is None:
                self._hedge(call, due)

    def _hedge(self, first: Call, due: _Due) -> None:
        """Start the second attempt of *first*, if a replica has a free slot for it and the budget allows it."""
        parts, lane = self._parts, first.lane
        if not any(each.free and each is not lane for each in parts.lanes.serving):
            return
        fields = (first.method, first.args, first.kwargs, first.options, first.since, first.deadline, first.deadline)
        with self._budget.lock:
            decided = self._budget.machine.take_from_budget(parts.clock.monotonic())
        kind = EventKind.HEDGE_REFUSED if isinstance(decided, NoRetry) else EventKind.HEDGED
        seconds = parts.clock.monotonic() - first.since
        if not isinstance(decided, NoRetry):
            second = Hedge(self._owner, *fields, due.context)
            second.first, second.outer, second.tried = first, first.outer, first.tried | {lane}
            second.on_settled(partial(self._won, second))
            parts.losses.retries["hedge"] += 1  # first: its caller may look once it has the answer
            if not parts.send_elsewhere(second):
                parts.losses.retries["hedge"] -= 1
                return
            first.on_over(partial(self._lost, second))
        self._tell(kind, f"{first.method.name} has no answer from {lane.id} after {seconds:.3g} s: {decided.reason}")

    # -- when one of the two is answered -----------------------------------------------------------------------------

    def _won(self, second: Hedge) -> None:
        """The second attempt has the outcome; the first one's goes nowhere. In the thread that ends it."""
        first = second.first
        with calls._GIVING_UP:  # noqa: SLF001 - as everyone who ends a call and is no worker
            started = not first.claim()  # if it has not, it never will
        self._parts.losses.drop(first, started=started)
        first.publish(second.result_now(), second.exception_now())

    def _lost(self, second: Hedge, first: Call) -> None:
        """The call of the second attempt is over."""
        if second.over():  # by that
            return
        if second.claim():  # it has not started and never will
            return
        lanes = self._parts.lanes
        with lanes.lock:
            if not second.gone:
                second.counted = True
                second.lane.count_abandoned(1)
        second.lane.give_up(second, Outcome.DROPPED, self._parts.clock.monotonic() - first.since)
        self._parts.closing.tell_watch()


def _nothing() -> None:
    """The call is dropped."""
