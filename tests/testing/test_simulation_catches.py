"""
Each router and replica below breaks one rule, and the simulation detects it within a few seeds.

A check that has never failed proves nothing.
"""

from __future__ import annotations

import re
from collections import deque
from itertools import count

import pytest

from faulty_simulations import first_failure
from sage_deploy_testing.doubles.bundling_replica import BundlingReplica
from sage_deploy_testing.doubles.fake_replica import FakeReplica
from sage_deploy_testing.simulation.simulation import SimulationFailure
from sage_plugins.routing.router import Router

# -- routers -----------------------------------------------------------------------------------------------------------


class Drops(Router):
    """Loses every 20th call."""

    def _rebind(self):
        super()._rebind()
        inside, turn = self.route, count(1)
        self.route = lambda call: True if next(turn) % 20 == 0 else inside(call)


class Overfills(Router):
    """Sends a replica one call more than it has slots."""

    def open(self, lane, replica):
        super().open(lane, replica)
        lane.free.append(None)


class Newest(deque):
    def popleft(self):
        return self.pop()


class LastComesFirst(Router):
    """Serves the newest waiting call first."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self._queue.shared = Newest()
        self._rebind()


class ReturnsRoomTwice(Router):
    """A call that leaves the queue frees two places."""

    def gave_up(self, call, outcome, *, started):
        if not started:
            self._queue.room.append(None)
        super().gave_up(call, outcome, started=started)


class KeepsRoom(Router):
    """A call that leaves the queue frees no place."""

    def gave_up(self, call, outcome, *, started):
        before = len(self._queue.room)
        super().gave_up(call, outcome, started=started)
        del self._queue.room[before:]


class CountsTwice(Router):
    """Counts calls that are given up twice."""

    def gave_up(self, call, outcome, *, started):
        super().gave_up(call, outcome, started=started)
        self._losses._count(call.method.index, outcome, 0.0, 0.0)


class CountsNothing(Router):
    """Forgets to count calls that are given up."""

    def gave_up(self, call, outcome, *, started):
        told, self._losses._count = self._losses._count, lambda *_: None
        try:
            super().gave_up(call, outcome, started=started)
        finally:
            self._losses._count = told


class RunsTwice(Router):
    """Starts running calls again when their replica died, even if they must not run twice."""

    def lost(self, lane, not_started, maybe, cause):
        for call in maybe:
            call.allow_second_start()
        super().lost(lane, (*not_started, *maybe), (), cause)


class GivesUpTooEarly(Router):
    """When a replica dies, ends the calls that had not started instead of moving them to another replica."""

    def lost(self, lane, not_started, maybe, cause):
        super().lost(lane, (), (*not_started, *maybe), cause)


class ForgetsWhatWasLost(Router):
    """Loses the calls that a dead replica had not started."""

    def lost(self, lane, not_started, maybe, cause):
        super().lost(lane, (), maybe, cause)


class IdleTooSoon(Router):
    """Reports that the service is idle as soon as it begins to drain."""

    def drain(self, why, on_idle):
        on_idle()
        super().drain(why, on_idle)


class NeverIdle(Router):
    """Never reports that the service is idle."""

    def drain(self, why, on_idle):
        super().drain(why, lambda: None)


class RefusesWhileThereIsRoom(Router):
    """Its queue has one place less than configured."""

    def __init__(self, *args, queue_size, **settings):
        super().__init__(*args, queue_size=max(0, queue_size - 1), **settings)


class AcceptsTooMany(Router):
    """Its queue has one place more than configured."""

    def __init__(self, *args, queue_size, **settings):
        super().__init__(*args, queue_size=queue_size + 1, **settings)


class ServesWhenItDrains(Router):
    """Accepts calls while it drains."""

    def _rebind(self):
        stopped, self._closing.stopped = self._closing.stopped, None
        super()._rebind()
        self._closing.stopped = stopped


class StopsWhatItAccepted(Router):
    """Ends waiting calls when it begins to drain."""

    def drain(self, why, on_idle):
        super().drain(why, on_idle)
        self.end()


class LosesCount(Router):
    """Never counts down when an abandoned call has ended."""

    def abandoned_ended(self, call):
        pass


class NeverHeals(Router):
    """Never looks for lost slots, places or calls."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.suspect = lambda: None


class GivesWhatIsHeld(Router):
    """Treats slots that calls hold as lost."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        missing = self._recovery._missing_slots

        def forget_what_is_held(inventory):
            held, inventory.held = inventory.held, dict.fromkeys(inventory.held, 0)
            found = missing(inventory)
            inventory.held = held
            return found

        self._recovery._missing_slots = forget_what_is_held


class GivesTwice(Router):
    """Gives back each lost slot twice."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        give_back = self._recovery._give_back

        def give_twice(amounts, calls):
            give_back(amounts, calls)
            give_back(amounts, calls)

        self._recovery._give_back = give_twice


class GivesWhatIsGranted(Router):
    """Treats a slot as lost while the caller that got it is about to run its call."""

    def lane(self, id, index, seniority=0):
        lane = super().lane(id, index, seniority)
        lane.granted = Forgetful()
        return lane


class Forgetful(set):
    def add(self, _):
        pass


class GivesRoomOfWaitingCalls(Router):
    """Treats the queue places of waiting calls as lost."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        missing = self._recovery._missing_slots

        def forget_who_waits(inventory):
            inventory.waiting = inventory.parked = []
            return missing(inventory)

        self._recovery._missing_slots = forget_who_waits


class QueuesAgainWhatIsThere(Router):
    """Treats a call as lost as soon as its caller asks where it is."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        recovery = self._recovery
        recovery._lost_calls = lambda _: {("lost", call) for call in recovery._asked if not call.over()}


# -- replicas ----------------------------------------------------------------------------------------------------------


class RunsWhatExpired(FakeReplica):
    """Starts calls although their time to start is over."""

    def too_late(self, call):
        return False


class RunsWithoutClaiming(FakeReplica):
    """Starts calls that were cancelled."""

    def claim(self, call):
        call.claim()
        return True


class PublishesWithoutClaiming(FakeReplica):
    """Publishes a second outcome for calls that already have one."""

    def claim_outcome(self, call):
        super().claim_outcome(call)
        return True


class FreesTwice(FakeReplica):
    """Reports each free slot twice."""

    def free(self, work):
        super().free(work)
        super().free(work)


class FreesNever(FakeReplica):
    """Never reports a free slot."""

    def free(self, work):
        pass


class AnswersTooLate(FakeReplica):
    """Publishes results that came after the deadline."""

    def too_late_to_end(self, call):
        return False


class BindsEverything(Router):
    """Lets calls without a key wait for the replica chosen first, as if they were bound to it."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self._lanes.is_bound = lambda _call: self._lanes.binding


class SendsAnyAhead(Router):
    """Sends calls ahead to a replica although they must not run twice."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self._prefetch.may_go = lambda _call, **_: True


class TakesTheWholeQueue(Router):
    """Sends one replica any number of waiting calls, more than it asked for, and leaves none for other slots."""

    def lane(self, id, index, seniority=0):
        lane = super().lane(id, index, seniority)
        ahead = lane.ahead
        lane.ahead = lambda call, most, **how: ahead(call, most * lane.slots * 100, **how)
        return lane


ROUTERS = {
    Drops: "no outcome",
    BindsEverything: "has a free slot",
    Overfills: "slots",
    LastComesFirst: "started after a call that came later",
    ReturnsRoomTwice: "places in the queue|calls wait and queue_size is|refused|there is room",
    KeepsRoom: "there is room|refused without cause|places in the queue",
    CountsTwice: "not counted so once",
    CountsNothing: "not counted so once",
    RunsTwice: "was lost while it ran|is not to run twice|started 2 times",
    GivesUpTooEarly: "no cause to end as died",
    ForgetsWhatWasLost: "no outcome|still belongs to",
    IdleTooSoon: "said to be idle",
    NeverIdle: "did not say so",
    RefusesWhileThereIsRoom: "refused without cause|there is room|places in the queue",
    AcceptsTooMany: "calls wait and queue_size is|places in the queue|refused without cause",
    ServesWhenItDrains: "takes no more",
    StopsWhatItAccepted: "no cause to end as stopped",
    LosesCount: "abandoned calls run, counted are",
    NeverHeals: "slots free|places in the queue|there is room|refused without cause|has a free slot",
    GivesWhatIsHeld: "slots",
    GivesTwice: "slots",
    GivesWhatIsGranted: "slots",
    GivesRoomOfWaitingCalls: "places in the queue|calls wait and queue_size is|refused|there is room",
    QueuesAgainWhatIsThere: "admitted|no outcome|second outcome|calls wait|started|InvalidStateError|not counted",
}
REPLICAS = {
    RunsWhatExpired: "started when its time to start was over",
    RunsWithoutClaiming: "started and is over|abandoned calls run",
    PublishesWithoutClaiming: "did not take its outcome|second outcome|not counted so once",
    FreesTwice: "slots",
    FreesNever: "slots",
    AnswersTooLate: "no cause to end",
}


# -- methods with their own limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("router", "rule"), ROUTERS.items(), ids=[router.__name__ for router in ROUTERS])
def test_a_router_that_breaks_a_rule_is_found_out(router, rule):
    """The simulation detects each faulty router, and its failure names the broken rule."""
    seed, story = first_failure(router=router)
    assert story.startswith(f"seed {seed}: ")
    assert re.search(rule, story.splitlines()[0]), story


@pytest.mark.parametrize(("replica", "rule"), REPLICAS.items(), ids=[replica.__name__ for replica in REPLICAS])
def test_a_replica_that_breaks_its_promises_is_found_out(replica, rule):
    """The simulation detects each faulty replica, and its failure names the broken rule."""
    seed, story = first_failure(replica=replica)
    assert story.startswith(f"seed {seed}: ")
    assert re.search(rule, story.splitlines()[0]), story


@pytest.mark.parametrize(
    ("router", "rule"),
    [(SendsAnyAhead, "was sent ahead and must not be"), (TakesTheWholeQueue, "were sent ahead, of at most")],
)
def test_a_router_that_breaks_a_rule_of_bundles_is_found_out(router, rule):
    """The simulation detects each router that sends the wrong calls ahead, and names the broken rule."""
    _, story = first_failure(router=router, replica=BundlingReplica)
    assert re.search(rule, story.splitlines()[0]), story


def test_the_story_is_an_assertion_with_the_setting_and_the_last_steps():
    """A failure is an `AssertionError` that shows the setting and the last steps."""
    assert issubclass(SimulationFailure, AssertionError)
    _, story = first_failure(router=Drops)
    assert "Setting(queue_size=" in story
    assert "last steps:" in story
    assert "route " in story
