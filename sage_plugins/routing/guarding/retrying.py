"""Tries calls again: what `resilience.retries` decides, done with a router's calls."""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from sage_plugins.event_kinds import EventKind
from sage_plugins.resilience.retries import NoRetry, Retries
from sage_plugins.routing.lane import remove
from sage_plugins.routing.prefetch import may_run_twice
from sage_plugins.values import GENERATORS

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Timer
    from sage_plugins.config.nested_keys import RetryPolicy
    from sage_plugins.resilience.retries import Retry
    from sage_plugins.routing.guarding.parts import Parts, RateLimitedTell
    from sage_plugins.routing.guarding.unguarded import Follow
    from sage_plugins.routing.lane import Lane

__all__ = ["Budget", "Retrying"]


class Budget:
    """
    What retries and second attempts of one service share.

    Attributes:
        machine: Says whether there may be one more attempt.
        lock: Guards it. Re-entrant: a signal handler may make a call that fails.
    """

    def __init__(self, policy: RetryPolicy, random: Random) -> None:
        """No call was made; the rest is as for `Retries`."""
        self.machine = Retries(policy, random)
        self.lock = threading.RLock()

    def guard(self, route: Callable[[Call], bool]) -> Callable[[Call], bool]:
        """*route*, with each call counted."""
        machine = self.machine

        def counted(call: Call) -> bool:
            if call.since >= machine.counts_until:  # `Retries.called` written out
                machine.restart_count(call.since)
            machine.calls += 1
            return route(call)

        return counted


class Retrying:
    """Tries calls of one service again. From any thread."""

    def __init__(self, policy: RetryPolicy, parts: Parts, budget: Budget, tell: RateLimitedTell) -> None:
        """
        No call has failed.

        Args:
            policy: What is allowed.
            parts: Those of the router whose calls they are.
            budget: Of the same policy.
            tell: Told of the decisions.
        """
        self._policy = policy
        self._parts = parts
        self._tell = tell
        self._machine, self._lock = budget.machine, budget.lock
        self._pausing: dict[Call, Timer | None] = {}  # calls that wait for the time of their next attempt
        self._elsewhere: deque[Call] = deque()  # calls that wait for a replica that has not failed them

    def not_again(self, call: Call) -> str:
        """As for `Losses`, of an idempotent call whose replica died."""
        now = self._parts.clock.monotonic()
        call.deaths += 1
        with self._lock:
            decided = self._machine.died(now, call.deadline - now, call.attempts + 1, call.deaths)
        self._say(decided, call, "lost its replica")
        if isinstance(decided, NoRetry):
            return f"It was not retried: {decided.reason}"
        call.attempts += 1
        return ""

    def failed(self, call: Call, error: BaseException) -> Callable[[], None] | None:
        """As `CallOwner.failed`."""
        if call.method.kind in GENERATORS or not may_run_twice(call) or not self._policy.matches(error):
            return None
        now = self._parts.clock.monotonic()
        with self._lock:
            decided = self._machine.failed(now, call.deadline - now, call.attempts + 1)
        self._say(decided, call, f"raised {type(error).__name__}")
        if isinstance(decided, NoRetry):
            return None
        with self._parts.lanes.lock:
            self._parts.queue.returning += 1
        call.pauses = True
        call.expires = call.deadline  # it has started once
        if not call.mark_unstarted():  # given up meanwhile
            self._arrived(call)
            return None
        call.attempts += 1
        self._parts.losses.retries["exception"] += 1
        return partial(self._pause, call, now + decided.wait)

    def end(self) -> None:
        """The calls that wait for their next attempt wait no longer."""
        for call in list(self._pausing):
            self._due(call)
        self.lanes_changed()

    # -- between two attempts ----------------------------------------------------------------------------------------

    def _pause(self, call: Call, until: float) -> None:
        """Try *call* again at *until*; nobody has it."""
        self._parts.losses.leave_bundle(call)
        first = not call.tried
        call.tried |= {call.lane}
        call.lane = call.batch = None
        call.answered = call.uncounted = False
        clock = self._parts.clock
        with self._lock:
            self._pausing[call] = clock.call_at(until, partial(self._due, call)) if until > clock.monotonic() else None
        if first:
            call.on_over(self._is_over)
        if until <= clock.monotonic():
            self._due(call)

    def _due(self, call: Call) -> None:
        if self._take_pausing(call) and not call.expire():
            self._send(call)
            self._parts.match()
            self._parts.closing.tell_watch()

    def _take_pausing(self, call: Call) -> bool:
        """Whether *call* was pausing and no longer is; True for exactly one caller."""
        with self._lock:
            if call not in self._pausing:
                return False
            timer = self._pausing.pop(call)
        if timer is not None:
            timer.cancel()
        return True

    def _is_over(self, call: Call) -> None:
        """A call is over; it may have been waiting for its next attempt."""
        if self._take_pausing(call) or remove(self._elsewhere, call):
            self._arrived(call)
            self._parts.closing.tell_watch()

    def _arrived(self, call: Call) -> None:
        """A call is in nobody's hands no longer."""
        call.pauses = False
        with self._parts.lanes.lock:
            self._parts.queue.returning -= 1
            self._parts.closing.give_back()  # a service that drains found nothing waiting and took them back

    # -- on another replica ------------------------------------------------------------------------------------------

    def _send(self, call: Call) -> None:
        """Have the next replica take *call* that has not failed it; if there is none, any."""
        if self._others(call):
            with self._parts.lanes.lock:
                self._parts.closing.give_back()
            self._elsewhere.append(call)
            if call.over():
                self._is_over(call)
            for lane in sorted(self._others(call), key=lambda each: each.inflight):
                self._fill(lane)
            self.lanes_changed()
        else:
            self._parts.losses.put_back(call)
            self._arrived(call)

    def _others(self, call: Call) -> list[Lane]:
        """The replicas that may run *call*, and have not failed it."""
        lanes = self._parts.lanes
        if self._parts.closing.ended or lanes.is_bound(call):
            return []
        return [lane for lane in lanes.serving if lane not in call.tried and lane.methods is None]

    def lanes_changed(self) -> None:
        """Other replicas serve: what waits for one that has not failed it may wait in vain."""
        for call in list(self._elsewhere):
            if not self._others(call) and remove(self._elsewhere, call):
                self._parts.losses.put_back(call)
                self._arrived(call)

    def follow(self, lane: Lane, follow: Follow) -> Follow:
        """As `Unguarded.follow`: first come calls that other replicas have failed."""
        if not self._policy.on:
            return follow
        elsewhere = self._elsewhere

        def follow_first(ended: Any) -> Call | None:
            while elsewhere and (call := self._take(lane)) is not None:
                if lane.run_here is None:
                    call.lane = lane
                    return call
                if call.grant(lane):
                    return None
            work = follow(ended)
            if work is None and elsewhere:  # one may have come to wait between the two looks
                self._fill(lane)
            return work

        return follow_first

    def _take(self, lane: Lane) -> Call | None:
        """The first call that waits for another replica than those that failed it, if *lane* has such."""
        if lane.slots and lane.methods is None:  # it may end a canary before it is open
            for call in list(self._elsewhere):
                if lane not in call.tried and remove(self._elsewhere, call):
                    self._arrived(call)
                    return call
        return None

    def _fill(self, lane: Lane) -> None:
        """Have a free slot of *lane* go to a call that waits for it."""
        if any(lane not in call.tried for call in list(self._elsewhere)):
            try:
                lane.free.pop()
            except IndexError:
                return
            lane.freed(None)

    def _say(self, decided: Retry | NoRetry, call: Call, why: str) -> None:
        kind = EventKind.RETRY_REFUSED if isinstance(decided, NoRetry) else EventKind.RETRIED
        self._tell(kind, f"{call.method.name} {why}: {decided.reason}")
