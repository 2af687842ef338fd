"""
Gives slow calls a second attempt on another replica, if `resilience.hedges` and the retry budget allow it.

The second attempt is a `Hedge`, a call of its own, sent to a free slot. It shares only the outcome token with the
caller's call. The worker that finishes first takes the token, and its replica counts the call. The other attempt finds
no token and is dropped uncounted, as if its caller had given it up. So there is always one outcome and one count.
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

    It decides only the outcome of the caller's call, and never waits. If its replica loses, refuses or gives it up, it
    is dropped.

    Attributes:
        first: The caller's call.
        gone: Whether its work is over without an outcome; guarded by the lanes' lock, as `counted`.
        counted: Whether its slot counts as abandoned.
    """

    first: Call
    gone: bool = False
    counted: bool = False

    @property
    def _unsettled(self) -> bool:
        return self.first._unsettled  # noqa: SLF001 - both attempts share the token of the first

    @_unsettled.setter
    def _unsettled(self, _: bool) -> None:
        """Ignore the assignment in the constructor: a hedge has no token of its own."""

    @_unsettled.deleter
    def _unsettled(self) -> None:
        del self.first._unsettled  # noqa: SLF001 - as above

    def give_up(self, error: BaseException, outcome: int, *, only_unstarted: bool = False) -> bool:  # noqa: ARG002 - as `Call`'s
        """Drop this attempt, which its replica will not answer; the caller's call goes on."""
        if self.claim():
            self.owner.abandoned_ended(self)  # it will never run
        return True

    def unstarted(self) -> bool:
        """Return False: a hedge never waits."""
        return False

    def allow_second_start(self) -> bool:
        """Return False: a hedge is not sent again."""
        return False

    def mark_unstarted(self) -> bool:
        """Return False: a hedge is not sent again."""
        return False


class _Owner(CallOwner):
    """The owner of second attempts."""

    def __init__(self, parts: Parts) -> None:
        self.service = parts.service
        self.clock = parts.clock
        self._parts = parts

    def gave_up(self, call: Call, outcome: int, *, started: bool) -> None:
        """Do nothing: only `Hedging` gives a second attempt up."""

    def failed(self, call: Call, error: BaseException) -> Callable[[], None] | None:  # noqa: ARG002 - as `CallOwner`'s
        """Drop the second attempt, which raised: the first may still succeed."""
        return _nothing

    def abandoned_ended(self, call: Any) -> None:
        """Note that the attempt's method has ended, or that its replica has refused it."""
        with self._parts.lanes.lock:
            call.gone = True
            if call.counted:
                call.counted = False
                call.lane.count_abandoned(-1)


class _Due(NamedTuple):
    """A call that may get a second attempt, and its caller's context variables as they were before it ran."""

    at: float
    call: weakref.ref[Call]
    context: Context | None


class Hedging:
    """Gives the calls of one service second attempts. Thread-safe."""

    def __init__(
        self,
        policy: HedgePolicy,
        parts: Parts,
        budget: Budget,
        tell: RateLimitedTell,
    ) -> None:
        self._parts = parts
        self._budget = budget
        self._tell = tell
        self._delays = Delays(policy.delay)
        self._owner = _Owner(parts)
        self._lock = threading.RLock()
        self._due: dict[int, deque[_Due]] = {}  # by method; a method's calls have one delay, so they are in order
        self._timer: Timer | None = None
        self._timer_at = 0.0

    def guard(self, route: Callable[[Call], bool]) -> Callable[[Call], bool]:
        """Wrap *route* to note the calls that may get a second attempt, unless their callers run them."""
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
        """Stop, at the end of the router."""
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
        """Give second attempts to the calls that are due."""
        now, found = self._parts.clock.monotonic(), []
        with self._lock:
            self._timer = None
            for row in self._due.values():
                # If the delay has just got shorter, some calls get their second attempt a little late.
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
            parts.losses.retries["hedge"] += 1  # first, as the caller may read it once it has the answer
            if not parts.send_elsewhere(second):
                parts.losses.retries["hedge"] -= 1
                return
            first.on_over(partial(self._lost, second))
        self._tell(kind, f"{first.method.name} has no answer from {lane.id} after {seconds:.3g} s: {decided.reason}")

    # -- when one of the two is answered -----------------------------------------------------------------------------

    def _won(self, second: Hedge) -> None:
        """End the caller's call with the second attempt's outcome, in the thread that ends that attempt."""
        first = second.first
        with calls._GIVING_UP:  # noqa: SLF001 - every thread that ends a call, except its worker, holds this lock
            started = not first.claim()  # this claim prevents a later start
        self._parts.losses.drop(first, started=started)
        first.publish(second.result_now(), second.exception_now())

    def _lost(self, second: Hedge, first: Call) -> None:
        """Drop the second attempt, as the caller's call is over."""
        if second.over():  # the second attempt ended the call
            return
        if second.claim():  # it has not started, and cannot any more
            return
        lanes = self._parts.lanes
        with lanes.lock:
            if not second.gone:
                second.counted = True
                second.lane.count_abandoned(1)
        second.lane.give_up(second, Outcome.DROPPED, self._parts.clock.monotonic() - first.since)
        self._parts.closing.tell_watch()


def _nothing() -> None:
    """Do nothing: the call is dropped."""
