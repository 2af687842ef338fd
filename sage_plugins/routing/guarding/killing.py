"""Kills replicas in which calls run on after their deadline, for services with `timeout_strength: kill`."""

from __future__ import annotations

import threading
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

from sage_plugins.errors import ReplicaDiedError
from sage_plugins.event_kinds import EventKind
from sage_plugins.threads import start_thread
from sage_plugins.values import MethodKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Timer
    from sage_plugins.interfaces.targets import KillableReplica
    from sage_plugins.routing.guarding.parts import Parts, Tell
    from sage_plugins.routing.lane import Lane

__all__ = ["Killing"]

#: Seconds that a coroutine or a generator gets to stop after its deadline, at which it is told to stop.
STOPS_WITHIN_S: Final = 1.0

#: Least number of seconds from one look at all deadlines to the next.
_PAUSE_S: Final = 0.02


class Killing:
    """
    Ends calls of one service at their deadline, even if no caller waits, and kills replicas that go on running them.

    Nothing else stops a synchronous method. A killed replica counts as one that died. Thread-safe.
    """

    def __init__(self, parts: Parts, tell: Tell) -> None:
        """
        Kill nothing yet.

        Args:
            parts: The router's parts.
            tell: Called for each replica that is killed.
        """
        self._parts = parts
        self._tell = tell
        self._open: dict[Call, None] = {}  # accepted calls without an outcome; changed in atomic steps
        self._running_on: set[Call] = set()  # calls given up that may run; changed in atomic steps
        self._lock = threading.Lock()
        self._timer: Timer | None = None  # guarded by _lock, as the next
        self._due = inf
        # A call that was sent ahead may not have started at its deadline. Its replica must not be killed for it.
        parts.queue.sends_ahead = False
        owner = parts.owner
        owner.kills = True
        owner.on_result, owner.on_error = self._telling(owner.on_result), self._telling(owner.on_error)

    # -- deadlines ---------------------------------------------------------------------------------------------------

    def guard(self, route: Callable[[Call], bool]) -> Callable[[Call], bool]:
        """Wrap *route* to watch the deadline of each call."""

        def guarded(call: Call) -> bool:
            self._open[call] = None
            try:
                accepted = route(call)
            except BaseException:  # the call was not accepted
                self._open.pop(call, None)
                raise
            if call.deadline < self._due:
                self._watch(call.deadline)
            return accepted

        return guarded

    def _telling(self, too: Callable[[Any, Any], None] | None) -> Callable[[Any, Any], None]:
        """Return a listener that stops watching a call that has ended, and then calls *too*."""

        def told(call: Call, error: BaseException | None) -> None:
            self._open.pop(call, None)
            if too is not None:
                too(call, error)

        return told

    def _watch(self, until: float) -> None:
        with self._lock:
            if until < self._due:
                self._due = until
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = self._parts.clock.call_at(until, self._look)

    def _look(self) -> None:
        """End the calls whose time is over. A waiting caller ends its call itself; the others need this."""
        with self._lock:
            self._due = inf
        calls = list(self._open)
        now = self._parts.clock.monotonic()
        for call in calls:
            if call.deadline <= now:
                call.expire()
        earliest = min((call.deadline for call in calls if not call.settled()), default=inf)
        if earliest < inf:
            self._watch(max(earliest, now + _PAUSE_S))

    # -- calls that run on -------------------------------------------------------------------------------------------

    def overdue(self, call: Call) -> None:
        """Kill the replica of *call*, which may run on after its deadline: at once, or if it does not stop soon."""
        lane, clock = call.lane, self._parts.clock
        self._running_on.add(call)
        if call.method.kind is MethodKind.SYNC:
            self._kill(call, lane)
        else:
            clock.call_at(clock.monotonic() + STOPS_WITHIN_S, lambda: self._kill(call, lane))

    def stopped(self, call: Call) -> None:
        """Note that the method of an abandoned call has ended."""
        self._running_on.discard(call)

    def _kill(self, call: Call, lane: Lane) -> None:
        """Kill the replica of *lane* in a new thread: the current one is the caller's or the clock's."""
        if call in self._running_on:
            with suppress(RuntimeError):  # the interpreter is shutting down
                start_thread(lambda: self._kill_now(call, lane), f"{lane.id}-kill")

    def _kill_now(self, call: Call, lane: Lane) -> None:
        try:
            self._running_on.remove(call)
        except KeyError:  # it has just ended
            return
        name = f"{self._parts.service}.{call.method.name}"
        why = f"{name} ran on after its deadline, and timeout_strength is kill"
        cause = ReplicaDiedError(f"replica {lane.id} was killed: {why}", replica=lane.id, node=lane.node)
        if cast("KillableReplica", lane.replica).kill(cause):
            self._tell(EventKind.REPLICA_KILLED, why, lane.id)

    def end(self) -> None:
        """Stop, at the end of the router."""
        with self._lock:
            self._due = -inf  # so that `_watch` sets no timer any more
            if self._timer is not None:
                self._timer.cancel()
