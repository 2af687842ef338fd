"""
The simulation fails where it must: each router and replica below breaks one rule, and a few seeds find it out.

A check that has never failed proves nothing.
"""

from __future__ import annotations

import re
from collections import deque
from itertools import count

import pytest

from sage_plugins.router import Router
from sage_plugins.testing.fake_replica import FakeReplica
from sage_plugins.testing.simulation import Simulation, SimulationFailure

#: Most faults show in the first ten seeds.
SEEDS = 200


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
        self._backlog = Newest()
        self._rebind()


class ReturnsRoomTwice(Router):
    """A call that leaves the queue makes room for two."""

    def gave_up(self, call, outcome, *, started):
        if not started:
            self._room.append(None)
        super().gave_up(call, outcome, started=started)


class KeepsRoom(Router):
    """A call that leaves the queue makes room for none."""

    def gave_up(self, call, outcome, *, started):
        before = len(self._room)
        super().gave_up(call, outcome, started=started)
        del self._room[before:]


class CountsTwice(Router):
    """Counts calls that are given up once too often."""

    def gave_up(self, call, outcome, *, started):
        super().gave_up(call, outcome, started=started)
        self._count(call.method.index, outcome, 0.0, 0.0)


class CountsNothing(Router):
    """Forgets to count calls that are given up."""

    def gave_up(self, call, outcome, *, started):
        told, self._count = self._count, lambda *_: None
        try:
            super().gave_up(call, outcome, started=started)
        finally:
            self._count = told


class RunsTwice(Router):
    """Starts every call again whose replica died."""

    def lost(self, lane, not_started, maybe, cause):
        for call in maybe:
            call.rearm()
        super().lost(lane, (*not_started, *maybe), (), cause)


class GivesUpTooEarly(Router):
    """Ends calls that had not started when their replica dies, instead of moving them."""

    def lost(self, lane, not_started, maybe, cause):
        super().lost(lane, (), (*not_started, *maybe), cause)


class ForgetsWhatWasLost(Router):
    """Loses the calls that a dead replica had not started."""

    def lost(self, lane, not_started, maybe, cause):
        super().lost(lane, (), maybe, cause)


class IdleTooSoon(Router):
    """Says that the service is idle as soon as it drains."""

    def drain(self, why, on_idle):
        on_idle()
        super().drain(why, on_idle)


class NeverIdle(Router):
    """Does not say that the service is idle."""

    def drain(self, why, on_idle):
        super().drain(why, lambda: None)


class RefusesWhileThereIsRoom(Router):
    """Has one place less in the queue than it was given."""

    def __init__(self, *args, queue_size, **settings):
        super().__init__(*args, queue_size=max(0, queue_size - 1), **settings)


class AcceptsTooMany(Router):
    """Has one place more in the queue than it was given."""

    def __init__(self, *args, queue_size, **settings):
        super().__init__(*args, queue_size=queue_size + 1, **settings)


class ServesWhenItDrains(Router):
    """Goes on accepting calls."""

    def _rebind(self):
        stopped, self._stopped = self._stopped, None
        super()._rebind()
        self._stopped = stopped


class StopsWhatItAccepted(Router):
    """Ends waiting calls when it drains."""

    def drain(self, why, on_idle):
        super().drain(why, on_idle)
        self.end()


class LosesCount(Router):
    """Forgets that an abandoned call has ended."""

    def abandoned_ended(self, call):
        pass


# -- replicas ----------------------------------------------------------------------------------------------------------


class RunsWhatExpired(FakeReplica):
    """Starts calls whose time to start is over."""

    def too_late(self, call):
        return False


class RunsWithoutClaiming(FakeReplica):
    """Starts calls that were cancelled."""

    def claim(self, call):
        call.claim()
        return True


class PublishesWithoutClaiming(FakeReplica):
    """Publishes the outcome of calls that have one."""

    def _settle(self, call, outcome, result, error):
        self._record(call.method.index, outcome, 0.0, 0.0)
        self.free(call)
        call.publish(result, error)


class FreesTwice(FakeReplica):
    """Reports each slot free twice."""

    def free(self, call):
        super().free(call)
        super().free(call)


class FreesNever(FakeReplica):
    """Keeps its slots for ever."""

    def free(self, call):
        pass


class AnswersTooLate(FakeReplica):
    """Gives its caller what came after the deadline."""

    def _settle(self, call, outcome, result, error):
        super()._settle(call, outcome, result, None if self.too_late(call) else error)


ROUTERS = {
    Drops: "no outcome",
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
}
REPLICAS = {
    RunsWhatExpired: "started when its time to start was over",
    RunsWithoutClaiming: "started and is over|abandoned calls run",
    PublishesWithoutClaiming: "did not take its outcome|second outcome|not counted so once",
    FreesTwice: "slots",
    FreesNever: "slots",
    AnswersTooLate: "not counted so once|no cause to end",
}


def first_failure(**parts):
    for seed in range(SEEDS):
        try:
            Simulation(seed, **parts).run()
        except SimulationFailure as failure:
            return seed, str(failure)
    return pytest.fail(f"{SEEDS} seeds did not find it out")


@pytest.mark.parametrize(("router", "rule"), ROUTERS.items(), ids=[router.__name__ for router in ROUTERS])
def test_a_router_that_breaks_a_rule_is_found_out(router, rule):
    seed, story = first_failure(router=router)
    assert story.startswith(f"seed {seed}: ")
    assert re.search(rule, story.splitlines()[0]), story


@pytest.mark.parametrize(("replica", "rule"), REPLICAS.items(), ids=[replica.__name__ for replica in REPLICAS])
def test_a_replica_that_breaks_its_promises_is_found_out(replica, rule):
    seed, story = first_failure(replica=replica)
    assert story.startswith(f"seed {seed}: ")
    assert re.search(rule, story.splitlines()[0]), story


def test_the_story_is_an_assertion_with_the_setting_and_the_last_steps():
    assert issubclass(SimulationFailure, AssertionError)
    _, story = first_failure(router=Drops)
    assert "Setting(queue_size=" in story
    assert "last steps:" in story
    assert "route " in story
