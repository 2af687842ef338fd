"""Under overload a service works on calls that it can still answer: goodput does not fall. In virtual time."""

from __future__ import annotations

from math import inf
from random import Random

import pytest

from sage_deploy_testing.doubles.fake_replica import Act, open_replica
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins.call.call import Call
from sage_plugins.errors import CallTimeoutError, OverloadedError
from sage_plugins.routing.method_limits import MethodRouter
from sage_plugins.routing.router import Router
from sage_plugins.values import CallOptions, MethodKind, MethodPlan

WORK_S = 1 / 128
SLOTS = 2
FULL_LOAD = SLOTS / WORK_S
TIMEOUT_S = 10 * WORK_S
SECONDS = 0.5
METHOD = MethodPlan(0, "work", MethodKind.SYNC, idempotent=False, timeout=TIMEOUT_S)


class World:
    """A service that rejects, whose full queue takes far longer than the calls' timeout, with open-loop callers."""

    def __init__(self, kind=Router, *, refuses_late=True, seconds=lambda: WORK_S):
        self.clock = VirtualClock()
        self.events, self.good, self.refused = [], 0, []
        self.router = kind(
            "svc",
            self.clock,
            queue_size=100,
            reject=True,
            count=lambda *_: None,
            refused=lambda *_: None,
            refuses_late=refuses_late,
            overloaded=self.events.append,
            aside=lambda callback: callback(),
        )
        open_replica(self.router, self.clock, SLOTS, script=lambda _: Act(seconds=seconds()))

    def call(self, timeout=TIMEOUT_S, tries=1):
        now = self.clock.monotonic()
        call = Call(self.router, METHOD, (), {}, CallOptions(), now, now + timeout, now + timeout, None)
        call.add_done_callback(lambda _: self.ended(call, timeout, tries))
        try:
            self.router.route(call)
        except OverloadedError as error:
            self.turned_away(error, timeout, tries)
        if timeout < inf:
            self.clock.call_at(now + timeout, call.expire)
        return call

    def ended(self, call, timeout, tries):
        error = call.exception_now()
        self.good += error is None
        if error is not None:
            assert isinstance(error, CallTimeoutError), error
            self.try_again(WORK_S, timeout, tries)

    def turned_away(self, error, timeout, tries):
        self.refused.append(error)
        self.try_again(error.retry_after, timeout, tries)

    def try_again(self, seconds, timeout, tries):
        if tries > 1:
            self.clock.call_at(self.clock.monotonic() + seconds, lambda: self.call(timeout, tries - 1))

    def offer(self, factor, *, tries=1, seconds=SECONDS):
        """Return the goodput, in calls per second, under *factor* times the full load."""
        self.good = 0
        for _ in range(int(seconds * FULL_LOAD * factor)):
            self.call(tries=tries)
            self.clock.advance(1 / (FULL_LOAD * factor))
        return self.good / seconds


@pytest.mark.parametrize("kind", [Router, MethodRouter])
@pytest.mark.parametrize("tries", [1, 4], ids=["once", "retrying"])
def test_goodput_under_overload_is_that_of_full_load(kind, tries):
    """At 5 and 10 times the full load at least 90 % as many calls succeed as at full load."""
    rates = {factor: World(kind).offer(factor, tries=tries) for factor in (1, 5, 10)}
    assert rates[1] > 0.9 * FULL_LOAD
    assert min(rates.values()) >= 0.9 * rates[1], rates
    assert World(kind, refuses_late=False).offer(10) < 0.5 * rates[1], "the load must be one that needs it"


def test_goodput_is_kept_where_run_times_vary():
    """With exponential run times, at 10 times the full load at least 80 % as many calls succeed as at full load."""
    random = Random(7)  # noqa: S311 - no secret
    rates = {}
    for factor in (1, 10):
        rates[factor] = World(seconds=lambda: random.expovariate(1 / WORK_S)).offer(factor)
    assert rates[10] >= 0.8 * rates[1], rates


def test_a_method_that_mostly_takes_longer_than_calls_have_is_not_starved():
    """A method of which nine in ten calls take far too long still gets calls, and the tenth succeeds."""
    durations = iter([4 * TIMEOUT_S] * 9 + [WORK_S] for _ in range(10_000))
    flat = (seconds for ten in durations for seconds in ten)
    world = World(seconds=lambda: next(flat))
    started = 2 * SLOTS / (3.6 * TIMEOUT_S + 0.1 * WORK_S)
    assert world.offer(5, seconds=2) * 2 >= 0.4 * started / 10


def test_an_idle_service_refuses_nothing():
    """While a slot is free, a call is accepted, however short its timeout."""
    world = World()
    world.offer(10)
    world.clock.advance(2 * TIMEOUT_S)
    before = len(world.refused)
    for _ in range(20):
        call = world.call(timeout=WORK_S / 8)
        assert call.running() or call.lane is not None
        world.clock.advance(WORK_S)
    assert len(world.refused) == before


def test_after_the_overload_everything_is_accepted_again():
    world = World()
    world.offer(10)
    assert world.refused
    world.clock.advance(TIMEOUT_S)
    before = len(world.refused)
    assert world.offer(0.9) > 0.85 * FULL_LOAD
    assert len(world.refused) == before


def test_a_call_without_time_out_waits_as_long_as_it_takes():
    """A call without a timeout waits until it is answered."""
    world = World()
    world.offer(10)
    call = world.call(timeout=inf)
    world.clock.advance(5)
    assert call.result() == ("answer", ())


def test_who_is_turned_away_learns_when_to_try_again_and_an_event_says_why():
    """A refused call's error says when to try again (`retry_after`). An overload is reported by one event."""
    world = World()
    world.offer(10)
    told = [error.retry_after for error in world.refused]
    assert all(seconds is not None and 0 <= seconds <= TIMEOUT_S for seconds in told)
    assert any(told)
    assert len(world.events) == 1
    assert "need about" in world.events[0] or "it has" in world.events[0]
    world.clock.advance(11)
    world.offer(10)
    assert len(world.events) == 2
