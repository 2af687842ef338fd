"""Retries a router's calls, as `resilience.retries` decides."""

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
    The budget that retries and second attempts of one service share.

    Attributes:
        machine: Decides whether one more attempt is allowed.
        lock: Guards `machine`. Re-entrant: a signal handler may make a call that fails.
    """

    def __init__(self, policy: RetryPolicy, random: Random) -> None:
        """Begin without calls; the arguments are as for `Retries`."""
        self.machine = Retries(policy, random)
        self.lock = threading.RLock()

    def guard(self, route: Callable[[Call], bool]) -> Callable[[Call], bool]:
        """Wrap *route* to count each call."""
        machine = self.machine

        def counted(call: Call) -> bool:
            if call.since >= machine.counts_until:  # `Retries.called` inlined
                machine.restart_count(call.since)
            machine.calls += 1
            return route(call)

        return counted


class Retrying:
    """Retries one service's calls. Thread-safe."""

    def __init__(self, policy: RetryPolicy, parts: Parts, budget: Budget, tell: RateLimitedTell) -> None:
        self._policy = policy
        self._parts = parts
        self._tell = tell
        self._machine, self._lock = budget.machine, budget.lock
        self._pausing: dict[Call, Timer | None] = {}  # calls that wait for the time of their next attempt
        self._elsewhere: deque[Call] = deque()  # calls that wait for a replica on which they have not failed

    def not_again(self, call: Call) -> str:
        """As for `Losses`, for an idempotent call whose replica died."""
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
        """Send the calls that wait for their next attempt now."""
        for call in list(self._pausing):
            self._due(call)
        self.lanes_changed()

    # -- between two attempts ----------------------------------------------------------------------------------------

    def _pause(self, call: Call, until: float) -> None:
        """Try *call*, which no other part holds, again at *until*."""
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
        """Take *call* out of the pausing calls; True for exactly one thread."""
        with self._lock:
            if call not in self._pausing:
                return False
            timer = self._pausing.pop(call)
        if timer is not None:
            timer.cancel()
        return True

    def _is_over(self, call: Call) -> None:
        """Forget a call that is over, if it was waiting for its next attempt."""
        if self._take_pausing(call) or remove(self._elsewhere, call):
            self._arrived(call)
            self._parts.closing.tell_watch()

    def _arrived(self, call: Call) -> None:
        """Note that another part holds *call* again, or that it is over."""
        call.pauses = False
        with self._parts.lanes.lock:
            self._parts.queue.returning -= 1
            self._parts.closing.give_back()  # a drain may have taken free slots back while no call waited

    # -- on another replica ------------------------------------------------------------------------------------------

    def _send(self, call: Call) -> None:
        """Let the next free replica on which *call* has not failed take it; if there is none, any replica."""
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
        """Return the replicas that may run *call* and on which it has not failed."""
        lanes = self._parts.lanes
        if self._parts.closing.ended or lanes.is_bound(call):
            return []
        return [lane for lane in lanes.serving if lane not in call.tried and lane.methods is None]

    def lanes_changed(self) -> None:
        """After a change of replicas, queue again the calls that have failed on all replicas that may run them."""
        for call in list(self._elsewhere):
            if not self._others(call) and remove(self._elsewhere, call):
                self._parts.losses.put_back(call)
                self._arrived(call)

    def follow(self, lane: Lane, follow: Follow) -> Follow:
        """As `Unguarded.follow`: calls that failed on other replicas come first."""
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
            if work is None and elsewhere:  # a call may have joined since the first check
                self._fill(lane)
            return work

        return follow_first

    def _take(self, lane: Lane) -> Call | None:
        """Take the first call of `_elsewhere` that has not failed on *lane*."""
        if lane.slots and lane.methods is None:  # without slots it is not open yet, and its canary has ended
            for call in list(self._elsewhere):
                if lane not in call.tried and remove(self._elsewhere, call):
                    self._arrived(call)
                    return call
        return None

    def _fill(self, lane: Lane) -> None:
        """Give a free slot of *lane* to a call of `_elsewhere`, if one may take it."""
        if any(lane not in call.tried for call in list(self._elsewhere)):
            try:
                lane.free.pop()
            except IndexError:
                return
            lane.freed(None)

    def _say(self, decided: Retry | NoRetry, call: Call, why: str) -> None:
        kind = EventKind.RETRY_REFUSED if isinstance(decided, NoRetry) else EventKind.RETRIED
        self._tell(kind, f"{call.method.name} {why}: {decided.reason}")
