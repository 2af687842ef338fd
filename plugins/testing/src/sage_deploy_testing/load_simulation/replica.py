"""A replica in virtual time, whose methods take as long as a model says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.call.batch import Batch
from sage_plugins.routing.lane import LaneEvents
from sage_plugins.values import COROUTINES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from sage_deploy_testing.load_simulation.results.tally import Tally
    from sage_deploy_testing.load_simulation.scenario.times import Draw
    from sage_deploy_testing.load_simulation.timeline import Timeline
    from sage_plugins.call.call import Call
    from sage_plugins.interfaces import ControlOp, Work
    from sage_plugins.routing.lane import Lane

__all__ = ["ModelledReplica", "watch"]


def watch(timeline: Timeline, call: Call) -> None:
    """End *call* at its deadline, or at `expires` if it has not started, because no caller waits for it."""
    until = call.expires if call.unstarted() else call.deadline
    if until < float("inf"):
        timeline.at(max(until, timeline.now), lambda call: _is_due(timeline, call), call)


def _is_due(timeline: Timeline, call: Call) -> None:
    if not call.expire() and call.deadline > timeline.now:  # it has started since, and only its deadline counts
        watch(timeline, call)


class ModelledReplica(LaneEvents):
    """
    A replica as routers see it. It keeps the promises of a host, as `FakeReplica` does.

    It claims a call when the call starts. A call past its deadline does not start. Its slot is free before its caller
    learns the outcome. A call that was given up runs on and keeps its slot, unless it is a coroutine.

    Attributes:
        lane: The router's side of it.
        id: The replica's name.
        index: Its position.
        node: Its node's name.
        slots: The most calls at once.
        alive: Whether it has not died.
        factor: How many times as long methods take that start now.
        hung: Whether nothing ends now.
        running: The running calls and batches, with the calls of each.
    """

    run_here: Callable[[Call], None] | None
    send: Callable[[Work], None]

    def __init__(  # noqa: PLR0913, PLR0917 - what it is made of; there may be 10,000 of them
        self,
        lane: Lane,
        node: str | None,
        slots: int,
        timeline: Timeline,
        tally: Tally,
        draws: Sequence[Draw],
        random: Random,
    ) -> None:
        super().__init__(lane)
        self.id, self.index = lane.id, lane.index
        self.node = node
        self.slots = slots
        self.run_here = None
        self.send = self._send
        self.alive = True
        self.factor = 1.0
        self.hung = False
        self.lost_share = 0.0  # of answers
        self.running: dict[Work, Sequence[Call]] = {}
        self._held: list[Work] = []  # work that a hang keeps from ending, or whose answers were lost
        self._timeline = timeline
        self._trouble = False  # whether calls may reach their deadlines although their methods are quick
        self._started, self._at = tally.started, timeline.at
        self._draws = draws
        self._random = random

    # -- work --------------------------------------------------------------------------------------------------------

    def _send(self, work: Any) -> None:
        """Take work, and start it: there is a slot for it."""
        while work is not None:
            if type(work) is Batch:
                calls = self._claim_all(work)
                if calls:
                    self._start(work, calls)
                    return
            elif work.claim():
                if self._timeline.now < work.expires:
                    self._start(work, (work,))
                    return
                if work.claim_outcome():
                    error = work.timeout_error()
                    following = self.follow(work)
                    work.publish(None, error)
                    work = following
                    continue
                work.owner.abandoned_ended(work)
            work = self.follow(work)

    def _claim_all(self, batch: Batch) -> list[Call]:
        calls: list[Call] = []
        for call in batch.calls:
            if self._timeline.now >= call.expires:
                call.expire()
            elif call.claim():
                calls.append(call)
        batch.owner.batch_started(batch, len(calls))
        return calls

    def _start(self, work: Any, calls: Sequence[Call]) -> None:
        now = self._timeline.now
        self.running[work] = calls
        until = now + self._draws[work.method.index]() * self.factor
        for call in calls:
            call.began = now
            self._started(call, self.id)
            if until > call.deadline or self._trouble:
                watch(self._timeline, call)
        if self.lost_share and self._random.random() < self.lost_share:
            self._held.append(work)
        else:
            self._at(until, self._end, work)

    def _end(self, work: Any) -> None:
        if self.hung:
            self._held.append(work)
            return
        calls = self.running.pop(work, None)
        if calls is None:  # the replica died, or the work was a coroutine that was given up
            return
        now = self._timeline.now
        over = []
        for call in calls:
            call.ended = now
            if call.claim_outcome():
                over.append((call, call.timeout_error(ended=True) if now >= call.deadline else None))
            else:
                call.owner.abandoned_ended(call)
        following = self.follow(work)
        for call, error in over:
            call.publish(None, error)
        if following is not None:
            self._send(following)

    def give_up(self, call: Call, outcome: int, spent: float) -> bool:  # noqa: ARG002 - as in Replica
        """Give up a running call: a coroutine ends, and so does the wait for a lost answer."""
        if call.batch is None and (call.method.kind in COROUTINES or call in self._held) and not self.hung:
            self._at(self._timeline.now, self._end, call)
        return False

    # -- faults --------------------------------------------------------------------------------------------------------

    def trouble(self, *, factor: float = 1.0, hung: bool = False, lost_share: float = 0.0) -> None:
        """Become slow, hang or lose answers from now on. Without arguments, recover."""
        was_hung, self.hung = self.hung, hung
        self.factor, self.lost_share = factor, lost_share
        self._trouble = hung or lost_share > 0
        if hung and not was_hung:
            self._watch_all()
        if not self._trouble:
            held, self._held = self._held, []
            for work in held:
                self._at(self._timeline.now, self._end, work)

    def _watch_all(self) -> None:
        for calls in self.running.values():
            for call in calls:
                watch(self._timeline, call)

    def die(self) -> tuple[Work, ...]:
        """Die at once, and return the running work. From now on its calls end at their deadlines."""
        self.alive = False
        work = tuple(self.running)
        self._watch_all()
        self.running.clear()
        return work

    # -- other members of a replica ------------------------------------------------------------------------------------

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:
        """Never called for a modelled replica."""
        raise NotImplementedError

    begin_stop: Callable[[], None] = staticmethod(lambda: None)

    def stop(self, grace: float) -> int:  # noqa: ARG002 - as in Replica
        """End, and return the number of calls that still run."""
        self.alive = False
        return len(self.running)
