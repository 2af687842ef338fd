"""
A replica that follows a script in virtual time: it answers, raises, hangs, answers late, or dies.

Use it to test a router with a balancer, or with replicas in a certain state:

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

from sage_plugins.call.batch import Batch
from sage_plugins.interfaces import ControlOp
from sage_plugins.routing.lane import LaneEvents
from sage_plugins.values import Outcome, RunnerStats

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Sequence

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock, Timer
    from sage_plugins.interfaces import Work
    from sage_plugins.routing.lane import Lane
    from sage_plugins.routing.router import Router

__all__ = ["Act", "Behaviour", "FakeReplica", "ScriptedError", "calls_of", "open_replica"]


class ScriptedError(Exception):
    """Raised by a method whose script says `Behaviour.RAISE`."""


class Behaviour(StrEnum):
    """What a `FakeReplica` does with a call."""

    ANSWER = "answer"
    RAISE = "raise"
    """It raises. In a batch, only the first call fails, and the others are answered."""
    HANG = "hang"
    """It runs until `FakeReplica.release_hung`."""
    LATE = "late"
    """It answers after its deadline."""
    DIE_BEFORE = "die before"
    """The replica dies before it starts the call."""
    DIE_DURING = "die during"
    """The replica dies while the method runs, before the method has had its effect."""
    DIE_AFTER = "die after"
    """The replica dies after the method has had its effect, before it answers."""


@attrs.frozen
class Act:
    """
    What a `FakeReplica` does with one call or one batch.

    Attributes:
        behaviour: How the call or batch ends.
        seconds: Seconds from start to end of the method. With `LATE`, seconds from the deadline, or the last deadline
            of a batch.
    """

    behaviour: Behaviour = Behaviour.ANSWER
    seconds: float = 0.0


class _Holds:
    """As `interfaces.ReplicaHolds`, for lists."""

    def __init__(self, *held: Collection[Work]) -> None:
        self._counts: Sequence[Callable[[], int]] = [each.__len__ for each in held]

    def counts(self) -> Sequence[Callable[[], int]]:
        return self._counts

    def workers(self) -> Callable[[], Iterable[tuple[Hashable, tuple[object, float]]]]:
        return tuple

    def nudge(self) -> None:
        pass


class FakeReplica:
    """
    An `interfaces.Replica` whose methods take virtual time and end as a script says. For one thread.

    It keeps a host's promises to the router. It claims a call when the call starts. A call past its deadline never
    starts. The slot is free before the caller learns the outcome, which it learns once. All calls of a batch are
    claimed together, and each gets its own answer: `("answer", args)`.

    From `send` to its end, a piece of work is in exactly one of `inbox` and `running`. So whenever the replica dies, it
    reports all its work.

    Attributes:
        send: Take work. A worker picks it up when the clock moves. A dead replica reports the work as lost.
        run_here: Start a call at once, as if in its caller's thread. None if the replica has workers.
        alive: Whether it has not died.
        inbox: Work that no worker has picked up.
        running: Work whose methods run, also if its callers gave up, with the timer of its end.
        started: For each running call or batch, the started calls.
        starting: The work that is being started. Its method does not run yet.
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
            events: Receives freed slots and the death, through `follow(work)` and `lost(...)` of
                `interfaces.ReplicaEvents`.
            clock: Its clock.
            slots: Maximum calls at once.
            id: The replica's name.
            index: Position among the service's replicas.
            script: Returns the act for a call, or for the batch whose first call it is; called just before the start.
            pick_up: Returns the seconds until a worker picks up a piece of work.
            record: `record(method, outcome, wait_s, run_s)`, for calls that end here.
            started: Called when a method starts.
            executed: Called when a method has its effect.
            in_callers_thread: Whether it has no workers, as under `inline`.
        """
        self.id = id
        self.index = index
        self.node: str | None = None
        self.slots = slots
        self.give_up: Callable[[Call, int, float], bool] = lambda *_: False  # its methods cannot be cancelled
        self.alive = True
        self.inbox: deque[Work] = deque()
        self.running: dict[Work, Timer | None] = {}
        self.started: dict[Work, Sequence[Call]] = {}
        self.starting: Work | None = None
        self.holds = _Holds(self.inbox, self.running)
        self.send: Callable[[Work], None] = self._send
        self.run_here: Callable[[Work], None] | None = self._run_here if in_callers_thread else None
        self._events = events
        self._clock = clock
        self._script = script
        self._pick_up_after = pick_up
        self._record = record
        self._tell_started = started
        self._tell_executed = executed
        self._reported = False
        self._cause: BaseException = ConnectionError("the replica died")

    @property
    def taken(self) -> int:
        """Number of slots that are not free."""
        return len(self.inbox) + len(self.running)

    @property
    def runs(self) -> Collection[Sequence[Call]]:
        """For each slot whose method runs, the calls that may have started."""
        return self.started.values()

    def unstarted(self) -> list[Call]:
        """Return the calls that it has not started."""
        return [call for work in self.inbox for call in calls_of(work)]

    def _send(self, work: Work) -> None:
        self._take(work, self._pick_up_after())

    def _take(self, work: Work, after: float) -> None:
        self.inbox.append(work)
        if not self.alive:
            if self._reported:
                self._clock.call_at(self._clock.monotonic(), self._report)
            return
        self._check_slots()
        self._clock.call_at(self._clock.monotonic() + after, self._pick_up)

    def _run_here(self, work: Work) -> None:
        # A real replica returns after the method. This one returns at once, because there is only one thread.
        if self.alive:
            self.inbox.append(work)
            self._check_slots()
            self._pick_up()
        else:
            self.send(work)

    def _check_slots(self) -> None:
        if self.taken > self.slots:
            raise AssertionError(f"replica {self.id} has {self.slots} slots and holds {self.taken} pieces of work")

    # -- single calls ------------------------------------------------------------------------------------------------

    def _pick_up(self) -> None:
        if not self.inbox or not self.alive:
            return
        work = self.inbox[0]
        if isinstance(work, Batch):
            self._start_batch(work)
            return
        act = self._script(work)
        if act.behaviour is Behaviour.DIE_BEFORE and work.unstarted():
            self.die()
            return
        self.inbox.popleft()
        if not self.claim(work):
            self.free(work)
        elif self.too_late(work):
            self._end_expired(work)
        else:
            self._start(work, [work], act)

    def claim(self, call: Call) -> bool:
        """Claim the right to run *call*."""
        return call.claim()

    def too_late(self, call: Call) -> bool:
        """Return whether *call* must not start any more."""
        return self._clock.monotonic() >= call.expires

    def _start(self, work: Work, calls: Sequence[Call], act: Act) -> None:
        now = self._clock.monotonic()
        self.started[work] = calls
        self.running[work] = None
        for call in calls:
            self._tell_started(call)
        if act.behaviour is Behaviour.HANG:
            return
        until = now + act.seconds
        last = max(call.deadline for call in calls)
        if act.behaviour is Behaviour.LATE and last < inf:
            until = last + act.seconds
        self.running[work] = self._clock.call_at(until, lambda: self._end(work, act.behaviour))

    def _end(self, work: Work, behaviour: Behaviour) -> None:
        calls = self.started[work]
        if behaviour is not Behaviour.DIE_DURING:
            for call in calls:
                self._tell_executed(call)
        if behaviour in (Behaviour.DIE_DURING, Behaviour.DIE_AFTER):
            self.die()
            return
        del self.running[work], self.started[work]
        bad = calls[0] if behaviour is Behaviour.RAISE else None
        self._settle(work, [(call, *self._outcome(call, raises=call is bad)) for call in calls])

    def _outcome(self, call: Call, *, raises: bool) -> tuple[int, Any, BaseException | None]:
        if self.too_late_to_end(call):
            return Outcome.TIMEOUT, None, call.timeout_error(ended=True)
        if raises:
            return Outcome.ERROR, None, ScriptedError(call.method.name)
        return Outcome.OK, ("answer", call.args), None

    def too_late_to_end(self, call: Call) -> bool:
        """Return whether the answer to *call* comes after its deadline."""
        return self._clock.monotonic() >= call.deadline

    def _end_expired(self, call: Call) -> None:
        self._settle(call, [(call, Outcome.TIMEOUT, None, call.timeout_error())])

    def _settle(self, work: Work, outcomes: Iterable[tuple[Call, int, Any, BaseException | None]]) -> None:
        """End *work* as a host does: count its calls, free the slot, then release the callers."""
        over = []
        for call, outcome, result, error in outcomes:
            if self.claim_outcome(call):
                self._record(call.method.index, outcome, self._clock.monotonic() - call.since, 0.0)
                over.append((call, result, error))
            else:
                call.owner.abandoned_ended(call)
        self.free(work)
        for call, result, error in over:
            call.publish(result, error)

    def claim_outcome(self, call: Call) -> bool:
        """Claim the right to decide the outcome of *call*."""
        return call.claim_outcome()

    def free(self, work: Work) -> None:
        """Report that the slot of *work* is free, and take the work that gets it next."""
        following = self._events.follow(work)
        if following is not None:
            self._take(following, 0.0)

    # -- batches -----------------------------------------------------------------------------------------------------

    def _start_batch(self, batch: Batch) -> None:
        act = self._script(batch.calls[0])
        if act.behaviour is Behaviour.DIE_BEFORE:
            self.die()
            return
        self.inbox.popleft()
        calls: list[Call] = []
        self.running[batch], self.started[batch] = None, calls  # callers whose call expires here look at it
        self.starting = batch
        for call in batch.calls:
            if self.too_late(call):
                call.expire()
            elif self.claim(call):
                if not self.alive:  # it died meanwhile: a dead replica claims nothing
                    call._unstarted = True  # noqa: SLF001
                    return
                calls.append(call)
        if not self.alive:  # it died meanwhile
            return
        batch.owner.batch_started(batch, len(calls))
        self.starting = None
        if calls:
            self._start(batch, calls, act)
        else:
            del self.running[batch], self.started[batch]
            self.free(batch)

    # -- faults --------------------------------------------------------------------------------------------------------

    def release_hung(self) -> None:
        """Make every method that hangs answer now."""
        for work in [work for work, timer in self.running.items() if timer is None]:
            self._end(work, Behaviour.ANSWER)

    def die(self, *, report_after: float = 0.0) -> None:
        """
        Die at once, with every call that is here. Do nothing if it is dead.

        Args:
            report_after: Seconds until the router gets the report.
        """
        if self.alive:
            self.alive = False
            for timer in self.running.values():
                if timer is not None:
                    timer.cancel()
            self._clock.call_at(self._clock.monotonic() + report_after, self._report)

    def _report(self) -> None:
        self._reported = True
        not_started, maybe = tuple(self.inbox), self._maybe()
        for held in (self.inbox, self.running, self.started):
            held.clear()
        self._events.lost(not_started, maybe, self._cause)

    def _maybe(self) -> Sequence[Work]:
        return tuple(self.running)

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:  # noqa: ARG002 - as in Replica
        """Answer a health check, or return the statistics."""
        if op in {ControlOp.CHECK, ControlOp.READY}:
            if not self.alive:
                raise self._cause
            return True
        return {"runner": RunnerStats(threads=self.slots), "recorders": {}}

    def begin_stop(self) -> None:
        """End without a report."""
        self.alive = False

    def stop(self, grace: float) -> int:  # noqa: ARG002 - as in Replica
        """End without a report, and return the number of calls that still run."""
        self.alive = False
        return len(self.running)

    def __repr__(self) -> str:
        return f"<FakeReplica {self.id} {self.taken}/{self.slots}{'' if self.alive else ' dead'}>"


def calls_of(work: Work) -> Sequence[Call]:
    """Return the calls that *work* answers: one call, or those of a batch."""
    return work.calls if isinstance(work, Batch) else (work,)


class _Events(LaneEvents):
    """Reports the events of one fake replica to the router."""

    def __init__(self, router: Router, lane: Lane) -> None:
        super().__init__(lane)
        self._router = router

    def lost(self, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        self._router.lost(self.lane, not_started, maybe, cause)


def open_replica(
    router: Router,
    clock: Clock,
    slots: int = 1,
    *,
    index: int = 0,
    replica: type[FakeReplica] = FakeReplica,
    **settings: Any,
) -> tuple[FakeReplica, Lane]:
    """
    Add a fake replica to *router*, and return it with its lane.

    Args:
        router: Sends it calls from now on.
        clock: The router's clock.
        slots: The most calls at once.
        index: Position among the replicas. It is part of the ID.
        replica: The replica's class.
        settings: As for `FakeReplica`.
    """
    lane = router.lane(f"{router.service}#{index}", index)
    made = replica(_Events(router, lane), clock, slots, id=lane.id, index=index, **settings)
    router.open(lane, made)
    return made, lane
