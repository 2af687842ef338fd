"""
A full queue sheds calls, in virtual time: which call makes room for which, and all rules of the router still hold.
"""

from __future__ import annotations

from functools import partial
from math import inf
from random import Random

import attrs
import pytest

from sage_deploy_testing.doubles.bundling_replica import BundlingReplica
from sage_deploy_testing.doubles.fake_replica import Act, Behaviour, open_replica
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_deploy_testing.simulation.simulated_calls import BrokenRuleError
from sage_deploy_testing.simulation.simulation import Setting, Simulation, SimulationFailure
from sage_deploy_testing.simulation.simulation_rules import UNBOUNDED
from sage_plugins.call.call import Call
from sage_plugins.config.nested_keys import Policies
from sage_plugins.errors import CallTimeoutError, OverloadedError
from sage_plugins.routing.guarding.guards import Guards
from sage_plugins.routing.method_limits import MethodRouter
from sage_plugins.routing.queue import LOWEST, OLDEST, rank_of
from sage_plugins.routing.router import Router
from sage_plugins.values import CallOptions, MethodKind, MethodPlan

ONCE = MethodPlan(0, "once", MethodKind.SYNC, idempotent=False, timeout=inf)
TWICE = MethodPlan(1, "twice", MethodKind.SYNC, idempotent=True, timeout=inf)
KINDS = pytest.mark.parametrize("kind", [Router, MethodRouter])
BOTH = pytest.mark.parametrize("sheds", [OLDEST, LOWEST])


class Stage:
    """A router that sheds, with one slot. Its methods hang until they are released."""

    def __init__(self, sheds, kind=Router, *, queue_size=2, late=False, **settings):
        self.clock = VirtualClock()
        self.counted, self.refused, self.events = [], [], []
        self.router = kind(
            "svc",
            self.clock,
            queue_size=queue_size,
            reject=True,
            refuses_late=late,
            sheds=sheds,
            count=lambda *counted: self.counted.append(counted),
            refused=lambda *refused: self.refused.append(refused),
            overloaded=self.events.append,
            aside=lambda body: body(),
            **settings,
        )
        self.started = []

    def open(self, index=0, script=lambda _: Act(Behaviour.HANG), **settings):
        settings |= {"index": index, "script": script, "started": self.started.append}
        return open_replica(self.router, self.clock, **settings)[0]

    def call(self, priority=0, *, method=ONCE, timeout=inf, key=None):
        now = self.clock.monotonic()
        options = CallOptions(key=key, priority=priority)
        call = Call(self.router, method, (), {}, options, now, now + timeout, now + timeout, None)
        try:
            self.router.route(call)
        finally:
            self.clock.advance(0.001)
        return call

    def error(self, call):
        assert call.over()
        return call.exception_now()


def is_shed(call):
    return call.over() and isinstance(call.exception_now(), OverloadedError)


@KINDS
def test_the_oldest_waiting_call_makes_room(kind):
    """A new call takes the place of the oldest waiting one, which ends with OverloadedError and counts as refused."""
    stage = Stage(OLDEST, kind, late=True)
    replica = stage.open()
    running, oldest, second = (stage.call() for _ in range(3))
    third = stage.call()
    assert [is_shed(call) for call in (running, oldest, second, third)] == [False, True, False, False]
    assert "the queue is full (queue_size=2), and it has waited longest" in str(stage.error(oldest))
    assert stage.refused == [(0, "overloaded")]
    assert stage.counted == []
    assert stage.router.waiting == 2
    replica.release_hung()
    stage.clock.advance(1)
    assert stage.started[:2] == [running, second]


@BOTH
@KINDS
def test_overload_is_told_once_however_many_calls_are_shed(sheds, kind):
    """One event reports an overload, however many calls are shed."""
    stage = Stage(sheds, kind, late=True)
    stage.open()
    for priority in range(20):
        stage.call(priority)
    assert len(stage.refused) == 17
    assert len(stage.events) == 1
    assert "was not run: the queue is full" in stage.events[0]


@BOTH
@KINDS
def test_without_a_queue_calls_are_refused(sheds, kind):
    """With `queue_size` 0 no call waits that could be shed, so the new call is refused."""
    stage = Stage(sheds, kind, queue_size=0)
    stage.open()
    stage.call()
    with pytest.raises(OverloadedError, match="was not accepted"):
        stage.call(5)
    assert stage.router.waiting == 0


@KINDS
def test_the_lowest_priority_makes_room_for_a_higher_one_only(kind):
    """A new call replaces the one that would start last, if it comes before that one. If not, it is refused."""
    stage = Stage(LOWEST, kind)
    stage.open()
    stage.call()
    low, lower = stage.call(1), stage.call(-1)
    high = stage.call(2)
    assert (is_shed(low), is_shed(lower)) == (False, True)
    assert "has the lowest priority" in str(stage.error(lower))
    for priority in (1, 0):
        with pytest.raises(OverloadedError, match="was not accepted"):
            stage.call(priority)
    stage.call(3)
    assert (is_shed(low), is_shed(high)) == (True, False)
    assert stage.router.waiting == 2


@KINDS
def test_waiting_calls_start_by_priority_then_by_age(kind):
    """Waiting calls start by priority, and within a priority in the order in which they were made."""
    stage = Stage(LOWEST, kind, queue_size=10)
    replica = stage.open()
    calls = {priority: [stage.call(priority) for _ in range(2)] for priority in (0, -1, 5, 2)}
    for _ in range(8):
        replica.release_hung()
        stage.clock.advance(1)
    first = calls[0][0]
    assert stage.started == [first, *calls[5], *calls[2], calls[0][1], *calls[-1]]


@KINDS
def test_a_call_that_has_waited_thirty_seconds_goes_before_one_level_more(kind):
    """A waiting call gains one priority level every 30 s, so later calls of higher priority cannot starve it."""
    stage = Stage(LOWEST, kind, queue_size=10)
    replica = stage.open()
    stage.call()
    old = stage.call(0)
    stage.clock.advance(29)
    early = stage.call(1)
    stage.clock.advance(2)
    late = stage.call(1)
    for _ in range(4):
        replica.release_hung()
        stage.clock.advance(0.001)
    assert stage.started[1:] == [early, old, late]


@KINDS
def test_a_call_that_was_put_back_waits_like_the_others(kind):
    """A call that returned to the queue because its replica died before it started can be shed, as the oldest."""
    stage = Stage(OLDEST, kind, queue_size=1)
    replica = stage.open(pick_up=lambda: 5)
    back = stage.call()
    waiting = stage.call()
    replica.die()
    stage.clock.advance(0)
    assert not back.over()
    assert stage.router.waiting + stage.router.parked == 2
    new = stage.call()
    assert [is_shed(call) for call in (back, waiting, new)] == [True, False, False]
    assert stage.router.waiting + stage.router.parked == 2
    stage.call()
    assert [is_shed(call) for call in (waiting, new)] == [True, False]
    stage.open(index=1, script=lambda _: Act(seconds=0.1))
    stage.clock.advance(5)
    assert new.over()
    assert not is_shed(new)
    assert (stage.router.waiting, stage.router.parked) == (0, 0)
    assert stage.router._queue.free == 1


@BOTH
def test_a_call_that_has_started_once_is_left_alone(sheds):
    """A call that has started once is never shed: OverloadedError would say that it did not run."""
    stage = Stage(sheds, queue_size=1, guards=Guards(Policies(UNBOUNDED)))
    replica = stage.open()
    started = stage.call(-5, method=TWICE)
    stage.clock.advance(1)
    replica.die()
    stage.clock.advance(0)
    assert started.attempts == 1
    assert stage.router.waiting == 1
    with pytest.raises(OverloadedError):
        stage.call(5)
    assert not started.over()


@KINDS
def test_nothing_is_sent_ahead_where_calls_have_priorities(kind):
    """With priorities no call is sent ahead, since later calls of higher priority could not overtake it."""
    stage = Stage(LOWEST, kind, queue_size=50)
    stage.open()
    (lane,) = stage.router.lanes
    running = stage.call(method=TWICE)
    for _ in range(20):
        stage.call(method=TWICE)
    assert lane.ahead(running, 10) == []


def test_a_call_that_cannot_end_in_time_is_not_started_where_the_oldest_makes_room():
    """Under `shed_oldest` a call that cannot end in time is accepted, but never started."""
    stage = Stage(OLDEST, queue_size=50, late=True)
    stage.open(script=lambda _: Act(seconds=1.0))
    calls = [stage.call(timeout=4.5) for _ in range(12)]
    for _ in range(100):
        stage.clock.advance(0.1)
        for call in calls:
            call.done()
    ended = [type(call.exception_now()) for call in calls]
    assert ended.count(type(None)) >= 3
    assert set(ended) == {type(None), CallTimeoutError}
    assert len([call for call in calls if call in stage.started]) == ended.count(type(None))


def test_under_priority_only_calls_that_come_before_count_against_a_newcomer():
    """Under `priority` only calls that start before the new one can make it too late."""
    stage = Stage(LOWEST, queue_size=50, late=True)
    stage.open(script=lambda _: Act(seconds=1.0))
    for _ in range(10):
        stage.call()
    stage.clock.advance(3)
    with pytest.raises(OverloadedError, match="the calls ahead of it"):
        stage.call(timeout=3)
    urgent = stage.call(1, timeout=3)
    stage.clock.advance(2.5)
    assert urgent.over()
    assert urgent.exception_now() is None


@KINDS
def test_a_newcomer_is_refused_for_the_time_that_the_slots_will_be_held(kind):
    """
    A new call is refused by an estimate: calls ahead of it, times the seconds each holds a slot, divided by the slots.
    """
    stage = Stage(None, kind, queue_size=50, late=True)
    stage.open(slots=2, script=lambda _: Act(seconds=1.0))
    for _ in range(15):
        stage.call()
    stage.clock.advance(3)
    waiting = stage.router.waiting
    assert waiting > 4
    with pytest.raises(OverloadedError, match=f"need about {waiting / 2:g} s, and"):
        stage.call(timeout=1)
    assert stage.refused == [(0, "overloaded")]


class ByKey:
    """Binds calls to the replica of their key."""

    binding = True

    def picker(self, candidates):
        return lambda key, _method: candidates[key]


def test_a_newcomer_that_is_bound_to_a_replica_waits_for_its_slots_alone():
    """For a call bound to a replica, the estimate counts only that replica's slots and calls."""
    stage = Stage(None, queue_size=50, late=True, balancer=ByKey())
    for index in range(2):
        stage.open(index, script=lambda _: Act(seconds=1.0))
    for number in range(20):
        stage.call(key=number % 2)
    stage.clock.advance(3)
    waiting = len(stage.router.lanes[0].backlog)
    assert waiting > 4
    with pytest.raises(OverloadedError, match=f"need about {waiting} s, and"):
        stage.call(timeout=1, key=0)


@KINDS
@pytest.mark.parametrize("sheds", [OLDEST, LOWEST])
def test_goodput_under_overload_is_that_of_full_load(kind, sheds):
    """With shedding and mixed priorities, goodput at ten times the load is at least 90 % of that at full load."""
    good = {}
    for factor in (1, 10):
        stage = Stage(sheds, kind, queue_size=100, late=True)
        stage.open(script=lambda _: Act(seconds=1 / 64))
        random, ended = Random(3), []  # noqa: S311 - no secret
        for _ in range(128 * factor):
            try:
                call = stage.call(random.choice((0, 0, 1, 2)), timeout=10 / 64)
            except OverloadedError:
                pass
            else:
                stage.clock.call_at(call.deadline, call.expire)
                ended.append(call)
            stage.clock.advance(1 / (64 * factor) - 0.001)
        good[factor] = sum(call.over() and call.exception_now() is None for call in ended)
    assert good[10] >= 0.9 * good[1] > 0.8 * 128, good


# -- random courses of events ------------------------------------------------------------------------------------------


class SheddingSimulation(Simulation):
    """A `Simulation` of a router that sheds. It adds the rules about which calls may be shed."""

    def __init__(self, seed, sheds, router=Router, **parts):
        drawn = Random(seed)  # noqa: S311 - no secret
        setting = Setting.draw(drawn)
        if parts.get("limits"):
            setting = setting.limit(drawn)
        setting = attrs.evolve(setting, reject=True)
        self.sheds, self.shed = sheds, 0
        super().__init__(seed, router=partial(router, sheds=sheds), setting=setting, **parts)
        self._single = self._single and sheds == OLDEST

    def _make(self):
        call = super()._make()
        if self.sheds == LOWEST:
            call.options = call.options._replace(priority=self._random.choice((0, 0, 1, -1, 5)))
        return call

    def _waiting(self):
        return [call for backlog in self._router._queue.backlogs() for call in backlog if not call.attempts]

    def _called_back(self, call):
        calm = self._calm
        self._calm = calm or is_shed(call)  # if not calm, the callback may make a call that sheds the new call itself
        super()._called_back(call)
        self._calm = calm

    def _route(self, call):
        super()._route(call)
        if call.returned and call.parked:  # it took the place of a call that had returned to a full queue
            call.came_back = True

    def _check_refusal(self, call, error, *, told, stopped):
        super()._check_refusal(call, error, told=told, stopped=stopped)
        if isinstance(error, OverloadedError) and self.setting.queue_size:
            last = max(self._waiting(), key=rank_of, default=None)
            if last is not None and (self.sheds == OLDEST or rank_of(last) > rank_of(call)):
                raise BrokenRuleError(f"call {call.number} was refused though another could make room")

    def ending(self, call, result, error):
        if not isinstance(error, OverloadedError):
            super().ending(call, result, error)
            return
        call.ends += 1
        if call.ends > 1 or call.starts or call.attempts or not call.settled():
            raise BrokenRuleError(f"call {call.number} was shed and {call!r}, started {call.starts} times")
        others = self._waiting()
        if self.sheds == OLDEST and any(each.since < call.since for each in others):
            raise BrokenRuleError(f"call {call.number} was shed and is not the oldest")
        if self.sheds == LOWEST and any(rank_of(each) > rank_of(call) for each in others):
            raise BrokenRuleError(f"call {call.number} was shed and is not the lowest")
        self._refusals_checked += 1
        if self._refusals_checked > self._refusals.total():
            raise BrokenRuleError(f"call {call.number} was shed and not counted as refused")
        self.shed += 1
        self._calls += 1  # the call counts as accepted and as refused
        self._tell(f"call {call.number} is shed")
        del self._live[call]


def play(seed, sheds, **parts):
    simulation = SheddingSimulation(seed, sheds, **parts)
    try:
        simulation.run()
    except SimulationFailure as error:
        failure = error
    else:
        return simulation
    pytest.fail(str(failure), pytrace=False)


PARTS = {
    "plain": {},
    "limited": {"router": MethodRouter, "limits": True},
    "ahead": {"replica": BundlingReplica},
}


@BOTH
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_seeds_keep_the_rules(sheds, parts):
    """Whatever callers and replicas do, the rules hold, and the seeds shed more than 40 calls."""
    shed = sum(play(seed, sheds, **parts).shed for seed in range(60))
    assert shed > 40
