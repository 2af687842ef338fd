"""
A replica that does as it is told, in virtual time: answers, raises, hangs, answers late, or dies at the worst moment.

It shows what a router does with a balancer, or with replicas in a certain state:

    clock = VirtualClock()
    router = Router("kv", clock, queue_size=10, ...)
    replica, lane = open_replica(router, clock, slots=2, script=lambda call: Act(Behaviour.HANG))
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING, Any

import attrs

from sage_plugins.interfaces import ControlOp
from sage_plugins.values import Outcome, RunnerStats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sage_plugins.call import Call
    from sage_plugins.clock import Clock, Timer
    from sage_plugins.lane import Lane
    from sage_plugins.router import Router

__all__ = ["Act", "Behaviour", "FakeReplica", "ScriptedError", "open_replica"]


class ScriptedError(Exception):
    """What a method raises whose script says `Behaviour.RAISE`."""


class Behaviour(StrEnum):
    """What becomes of a call on a `FakeReplica`."""

    ANSWER = "answer"
    RAISE = "raise"
    HANG = "hang"
    """It runs until `FakeReplica.release_hung`."""
    LATE = "late"
    """It answers after its deadline."""
    DIE_BEFORE = "die before"
    """The replica dies with the call in its hands and has not started it."""
    DIE_DURING = "die during"
    """The replica dies while the method runs, before it had its effect."""
    DIE_AFTER = "die after"
    """The method has had its effect and the replica dies with the answer."""


@attrs.frozen
class Act:
    """
    What a `FakeReplica` does with one call.

    Attributes:
        behaviour: What becomes of it.
        seconds: From start to end of the method; for `LATE`, from the deadline.
    """

    behaviour: Behaviour = Behaviour.ANSWER
    seconds: float = 0.0


class FakeReplica:
    """
    An `interfaces.Replica` whose methods take virtual time and end as a script says; for one thread.

    It keeps to what a host promises the router: a call is claimed when it starts, one whose time is over never starts,
    its slot is free before the caller learns the outcome, and once. An answer is `("answer", args)`.

    Attributes:
        send: Take a call; a worker looks for it when the clock moves. A dead replica reports that it lost it.
        run_here: Start a call at once, as if in its caller's thread; None unless it has no workers.
        alive: Whether it has not died.
        inbox: Calls that it has and has not started.
        running: Calls whose methods run, those included that their callers gave up; with the timer of their end.
    """

    def __init__(  # noqa: PLR0913 - the settings of one replica, all but the first three optional
        self,
        events: Any,
        clock: Clock,
        slots: int,
        *,
        id: str = "fake#0",
        index: int = 0,
        script: Callable[[Call], Act] = lambda _: Act(),
        pick_up: Callable[[], float] = lambda: 0.0,
        record: Callable[[int, int, float, float], None] = lambda *_: None,
        started: Callable[[Call], None] = lambda _: None,
        executed: Callable[[Call], None] = lambda _: None,
        in_callers_thread: bool = False,
    ) -> None:
        """
        Make a replica that is ready.

        Args:
            events: Told of freed slots and of the death: `follow(call)` and `lost(...)` of `interfaces.ReplicaEvents`.
            clock: Its time.
            slots: Calls at once.
            id: Name of the replica.
            index: Position among the service's replicas.
            script: What becomes of a call; asked when its turn comes, before it starts.
            pick_up: Seconds until a worker looks for a call that was sent, asked for each.
            record: `record(method, outcome, wait_s, run_s)`, for calls that end here.
            started: Told when a method starts.
            executed: Told when a method has its effect.
            in_callers_thread: Whether it has no workers, as under the strategy `inline`.
        """
        self.id = id
        self.index = index
        self.node: str | None = None
        self.slots = slots
        self.cancel: Callable[[Call], None] = lambda _: None  # its methods are no coroutines: they go on
        self.alive = True
        self.inbox: deque[Call] = deque()
        self.running: dict[Call, Timer | None] = {}
        self.send: Callable[[Call], None] = self._send
        self.run_here: Callable[[Call], None] | None = self._run_here if in_callers_thread else None
        self._events = events
        self._clock = clock
        self._script = script
        self._pick_up_after = pick_up
        self._record = record
        self._started = started
        self._executed = executed
        self._reported = False
        self._cause: BaseException = ConnectionError("the replica died")

    @property
    def taken(self) -> int:
        """Slots that are not free."""
        return len(self.inbox) + len(self.running)

    def _send(self, call: Call) -> None:
        self._take(call, self._pick_up_after())

    def _take(self, call: Call, after: float) -> None:
        self.inbox.append(call)
        if not self.alive:
            if self._reported:
                self._clock.call_at(self._clock.monotonic(), self._report)
            return
        self._check_slots()
        self._clock.call_at(self._clock.monotonic() + after, self._pick_up)

    def _run_here(self, call: Call) -> None:
        # Unlike a real one this comes back at once, with the method running: there is only one thread.
        if self.alive:
            self.inbox.append(call)
            self._check_slots()
            self._pick_up()
        else:
            self.send(call)

    def _check_slots(self) -> None:
        if self.taken > self.slots:
            raise AssertionError(f"replica {self.id} has {self.slots} slots and holds {self.taken} calls")

    def _pick_up(self) -> None:
        if not self.inbox or not self.alive:
            return
        call = self.inbox[0]
        act = self._script(call)
        if act.behaviour is Behaviour.DIE_BEFORE and call.unstarted():
            self.die()
            return
        self.inbox.popleft()
        if not self.claim(call):
            self.free(call)
        elif self.too_late(call):
            self._end_expired(call)
        else:
            self._start(call, act)

    def claim(self, call: Call) -> bool:
        """Take the right to run *call*."""
        return call.claim()

    def too_late(self, call: Call) -> bool:
        """Whether *call* must not start any more."""
        return self._clock.monotonic() >= call.expires

    def _start(self, call: Call, act: Act) -> None:
        now = self._clock.monotonic()
        self._started(call)
        if act.behaviour is Behaviour.HANG:
            self.running[call] = None
            return
        until = now + act.seconds
        if act.behaviour is Behaviour.LATE and call.deadline < inf:
            until = call.deadline + act.seconds
        self.running[call] = self._clock.call_at(until, lambda: self._end(call, act.behaviour))

    def _end(self, call: Call, behaviour: Behaviour) -> None:
        if behaviour is not Behaviour.DIE_DURING:
            self._executed(call)
        if behaviour in (Behaviour.DIE_DURING, Behaviour.DIE_AFTER):
            self.die()
            return
        del self.running[call]
        if self._clock.monotonic() >= call.deadline:
            self._settle(call, Outcome.TIMEOUT, None, call.timeout_error(ended=True))
        elif behaviour is Behaviour.RAISE:
            self._settle(call, Outcome.ERROR, None, ScriptedError(call.method.name))
        else:
            self._settle(call, Outcome.OK, ("answer", call.args), None)

    def _end_expired(self, call: Call) -> None:
        self._settle(call, Outcome.TIMEOUT, None, call.timeout_error())

    def _settle(self, call: Call, outcome: int, result: Any, error: BaseException | None) -> None:
        """End the work of *call* as a host does: count, free the slot, release the callers, in this order."""
        if not call.claim_outcome():
            call.owner.abandoned_ended(call)
            self.free(call)
            return
        self._record(call.method.index, outcome, self._clock.monotonic() - call.since, 0.0)
        self.free(call)
        call.publish(result, error)

    def free(self, call: Call) -> None:
        """Report that the slot of *call* is free, and go on to the call that gets it next."""
        following = self._events.follow(call)
        if following is not None:
            self._take(following, 0.0)

    def release_hung(self) -> None:
        """Have every method that hangs answer now."""
        for call in [call for call, timer in self.running.items() if timer is None]:
            self._end(call, Behaviour.ANSWER)

    def die(self, *, report_after: float = 0.0) -> None:
        """
        Stop at once, with every call that is here; does nothing if it is dead.

        Args:
            report_after: Seconds until the router is told.
        """
        if self.alive:
            self.alive = False
            for timer in self.running.values():
                if timer is not None:
                    timer.cancel()
            self._clock.call_at(self._clock.monotonic() + report_after, self._report)

    def _report(self) -> None:
        self._reported = True
        not_started, maybe = tuple(self.inbox), tuple(self.running)
        self.inbox.clear()
        self.running.clear()
        self._events.lost(not_started, maybe, self._cause)

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:  # noqa: ARG002 - as in Replica
        """Answer a question: whether it lives, or how many slots are taken."""
        if op in {ControlOp.CHECK, ControlOp.READY}:
            if not self.alive:
                raise self._cause
            return True
        return {"runner": RunnerStats(threads=self.slots), "recorders": {}}

    def stop(self, grace: float) -> int:  # noqa: ARG002 - as in Replica
        """End without a report; gives the number of calls that still run."""
        self.alive = False
        return len(self.running)

    def __repr__(self) -> str:
        """Name, slots taken, and whether it is dead."""
        return f"<FakeReplica {self.id} {self.taken}/{self.slots}{'' if self.alive else ' dead'}>"


class _Events:
    """What one fake replica reports, as far as the router is concerned."""

    def __init__(self, router: Router, lane: Lane) -> None:
        self.follow = lane.follow
        self.lane = lane
        self._router = router

    def lost(self, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        self._router.lost(self.lane, not_started, maybe, cause)


def open_replica(
    router: Router, clock: Clock, slots: int = 1, *, index: int = 0, **settings: Any
) -> tuple[FakeReplica, Lane]:
    """
    Give *router* a fake replica, and the lane to it.

    Args:
        router: Sends it calls from now on.
        clock: The router's.
        slots: Calls at once.
        index: Position among the replicas; part of its id.
        settings: As for `FakeReplica`.
    """
    lane = router.lane(f"{router.service}#{index}", index)
    replica = FakeReplica(_Events(router, lane), clock, slots, id=lane.id, index=index, **settings)
    router.open(lane, replica)
    return replica, lane
