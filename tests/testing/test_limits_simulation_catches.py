"""
Each router with method limits, or replica with batches, breaks one rule. The simulation detects it within a few seeds.

A check that has never failed proves nothing.
"""

from __future__ import annotations

import re
from collections import deque
from math import inf

import pytest

from faulty_simulations import first_failure
from sage_deploy_testing.doubles.fake_replica import FakeReplica
from sage_plugins.routing.lane import remove
from sage_plugins.routing.method_limits import MethodRouter


class IgnoresTurns(MethodRouter):
    """Runs as many calls of a method as there are slots."""

    def _has_turn(self, call, lane):
        return True


class KeepsTurns(MethodRouter):
    """Never counts down when a call gives back its turn."""

    def _turn(self, method, lane, change):
        super()._turn(method, lane, max(0, change))


class LooksAtTheOldestOnly(MethodRouter):
    """Looks only at the oldest call: while this one waits for its method's turn, it blocks all others."""

    def _take_oldest(self, lane):
        backlog = lane.backlog
        if backlog and self._has_turn(backlog[0], lane) and remove(backlog, call := backlog[0]):
            return call
        return None


class NewestOfItsMethodFirst(MethodRouter):
    """Among the calls whose method has a turn, serves the newest first."""

    def _take_oldest(self, lane):
        for call in reversed(lane.backlog):
            if self._has_turn(call, lane) and remove(lane.backlog, call):
                return call
        return None


class ForgetsTurnsAtTheEnd(MethodRouter):
    """When a call ends, does not start the next call that waits for its turn."""

    def _compose_follow(self, lane):
        super()._compose_follow(lane)

        def follow(ended):
            with self._lock:
                self._turn(ended.method, lane, -1)
                lane.free.append(None)
            self._closing.tell_watch()

        return follow


class MixesMethods(MethodRouter):
    """Puts calls of different methods into one batch."""

    def _companions(self, call, lane):
        found = [other for other in lane.backlog if not other.settled()] if call.method.batch else []
        return [other for other in found[: call.method.batch.size - 1] if remove(lane.backlog, other)] if found else []


class TooManyTogether(MethodRouter):
    """Puts any number of calls into a batch."""

    def _companions(self, call, lane):
        found = [each for each in lane.backlog if each.method is call.method] if call.method.batch else []
        return [other for other in found if not other.settled() and remove(lane.backlog, other)]


class NeverFull(MethodRouter):
    """Lets calls join a full batch."""

    def _send(self, call, lane):
        batch = lane.methods.open.get(call.method.index)
        if batch is None:
            return super()._send(call, lane)
        call.lane = lane
        batch.join(call)
        return True


class LosesWhoJoins(MethodRouter):
    """Accepts a call for an open batch, and then loses it."""

    def _send(self, call, lane):
        batch = lane.methods.open.get(call.method.index)
        sent = super()._send(call, lane)
        if batch is not None:
            batch.calls = [each for each in batch.calls if each is not call]
        return sent


class JoinsTwo(MethodRouter):
    """Leaves a call that joins a batch in the queue too."""

    def _send(self, call, lane):
        joins = call.method.index in lane.methods.open
        return super()._send(call, lane) and not joins


class WaitsForOthersTooLong(MethodRouter):
    """Keeps a batch open until it is full."""

    def _send_open(self, batch, lane):
        if lane not in self._lanes.open:
            super()._send_open(batch, lane)


class WaitsForNobody(MethodRouter):
    """Never waits for more calls of a batch."""

    def _waits_for_others(self, _call, _lane):
        return False


class ShutsAtTheNext(MethodRouter):
    """Sends a batch as soon as a second call has joined it."""

    def _send(self, call, lane):
        batch = lane.methods.open.get(call.method.index)
        sent = super()._send(call, lane)
        if batch is not None:
            self._send_open(batch, lane)
        return sent


class WaitsPastItsTime(MethodRouter):
    """Ignores the timeouts of calls in an open batch."""

    def _send(self, call, lane):
        expires, call.expires = call.expires, inf
        try:
            return super()._send(call, lane)
        finally:
            call.expires = expires


class TakesASlotForEach(MethodRouter):
    """Takes one more slot for a call that joins a batch."""

    def _send(self, call, lane):
        if call.method.index in lane.methods.open and lane.free:
            lane.free.pop()
        return super()._send(call, lane)


class TakesATurnForEach(MethodRouter):
    """Takes a turn for each call of a batch instead of one for the batch."""

    def _start(self, calls, lane):
        for call in calls[1:]:
            self._turn(call.method, lane, 1)
        return super()._start(calls, lane)


class CountsEachAbandonedCall(MethodRouter):
    """Counts an abandoned slot for each abandoned call of a batch."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self._losses.count_abandoned = lambda call, change: call.lane.count_abandoned(change)


class MiscountsBatches(MethodRouter):
    """Counts one call more than the batch runs."""

    def batch_started(self, batch, number):
        super().batch_started(batch, number + 1)


class MixesAnswersUp(FakeReplica):
    """Swaps the results among the callers of a batch."""

    def _settle(self, work, outcomes):
        results = deque(outcome[2] for outcome in outcomes)
        results.rotate()
        super()._settle(work, [(*each[:2], result, each[3]) for each, result in zip(outcomes, results, strict=True)])


class LeavesOneOut(FakeReplica):
    """Does not answer the last call of a batch."""

    def _settle(self, work, outcomes):
        super()._settle(work, outcomes[:-1] or outcomes)


LIMITED_ROUTERS = {
    IgnoresTurns: "at once, which may have",
    KeepsTurns: "and counts",
    LooksAtTheOldestOnly: "has a free slot",
    NewestOfItsMethodFirst: "started after a call that came later",
    ForgetsTurnsAtTheEnd: "has a free slot",
    MixesMethods: "is in a batch of",
    TooManyTogether: "are in a batch for",
    NeverFull: "are in a batch for",
    LosesWhoJoins: "no outcome",
    JoinsTwo: "no outcome|has a free slot|does not know it|slots",
    WaitsForOthersTooLong: "waits longer than",
    WaitsForNobody: "was shut though others could join",
    ShutsAtTheNext: "was shut though others could join",
    WaitsPastItsTime: "missed its time",
    TakesASlotForEach: "slots",
    TakesATurnForEach: "and counts",
    CountsEachAbandonedCall: "abandoned calls run, counted are",
    MiscountsBatches: "abandoned calls run, counted are",
}
LIMITED_REPLICAS = {
    MixesAnswersUp: "which is another's",
    LeavesOneOut: "no outcome",
}


@pytest.mark.parametrize(
    ("router", "rule"), LIMITED_ROUTERS.items(), ids=[router.__name__ for router in LIMITED_ROUTERS]
)
def test_a_method_router_that_breaks_a_rule_is_found_out(router, rule):
    """The simulation detects each faulty router with method limits, and names the broken rule."""
    _, story = first_failure(router=router, limits=True)
    assert re.search(rule, story.splitlines()[0]), story


@pytest.mark.parametrize(
    ("replica", "rule"), LIMITED_REPLICAS.items(), ids=[replica.__name__ for replica in LIMITED_REPLICAS]
)
def test_a_replica_that_breaks_its_promises_about_batches_is_found_out(replica, rule):
    """The simulation detects each replica with faulty batches, and names the broken rule."""
    _, story = first_failure(router=MethodRouter, replica=replica, limits=True)
    assert re.search(rule, story.splitlines()[0]), story
