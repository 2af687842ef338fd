"""
A router refuses calls of a service that keeps failing.

While the service is healthy, calls bypass its circuit breaker.
"""

from __future__ import annotations

from contextvars import copy_context
from math import inf

import pytest

from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins.call.call import Call
from sage_plugins.config.nested_keys import BreakerPolicy, OutlierPolicy, Policies
from sage_plugins.errors import CircuitOpenError, ReplicaDiedError
from sage_plugins.routing.guarding.guards import Guards
from sage_plugins.routing.router import Router
from sage_plugins.values import CallOptions, MethodKind, MethodPlan

PLAN = MethodPlan(0, "get", MethodKind.SYNC, idempotent=False, timeout=inf)


class Replica:
    """Has a slot for every call and keeps calls running until the test ends them."""

    id, index, node, run_here, slots = "svc#0", 0, None, None, 100

    def send(self, call):
        call.claim()
        call.began = call.owner.clock.monotonic()

    def give_up(self, *_):
        return False


class Stage:
    """One replica behind a router that refuses calls for ten seconds after two failures."""

    def __init__(self, **more):
        self.clock = VirtualClock()
        self.told = []
        policies = Policies(breaker=BreakerPolicy(failures=2, window=10.0, open=10.0, probes=1), **more)
        self.router = Router(
            "svc",
            self.clock,
            queue_size=100,
            reject=False,
            guards=Guards(policies, lambda kind, *_: self.told.append(str(kind))),
            count=lambda *_: None,
            refused=lambda *_: None,
        )
        self.lane = self.router.lane("svc#0", 0)
        self.router.open(self.lane, Replica())

    def call(self, route=None):
        now = self.clock.monotonic()
        call = Call(self.router, PLAN, (), {}, CallOptions(), now, inf, inf, copy_context())
        (route or self.router.route)(call)
        return call

    def end(self, call, *, died=False):
        call.claim_outcome()
        self.clock.advance(0.25)
        call.ended = self.clock.monotonic()
        self.lane.freed(call)
        call.publish(None, ReplicaDiedError("gone", service="svc") if died else None)

    def fail(self, times):
        for _ in range(times):
            self.end(self.call(), died=True)


def test_circuit_is_open_before_the_caller_learns_of_the_last_failure():
    """The circuit opens before the caller of the last failed call learns its outcome."""
    stage = Stage()
    stage.fail(1)
    call, found = stage.call(), []

    def learns():
        with pytest.raises(CircuitOpenError):
            stage.call()
        found.append(stage.told[:1])

    call.on_settled(learns)
    stage.end(call, died=True)
    assert found == [["circuit_opened"]]


def test_results_are_told_while_they_matter_only():
    """The breaker gets results only between a failure and the next success."""
    stage = Stage()
    assert stage.router.on_result is None
    stage.fail(1)
    assert stage.router.on_result is not None
    stage.end(stage.call())
    assert stage.router.on_result is None
    stage.fail(1)
    assert stage.told == []


def test_probe_that_succeeds_opens_the_way_of_all():
    """A probe that succeeds closes the circuit, and calls bypass the breaker again."""
    stage = Stage()
    way = stage.router.route.__qualname__
    stage.fail(2)
    stage.clock.advance(10.0)
    probe = stage.call()
    with pytest.raises(CircuitOpenError):
        stage.call()
    stage.end(probe)
    assert stage.router.route.__qualname__ == way
    assert stage.router.on_result is None
    stage.end(stage.call())
    assert stage.told == ["circuit_opened", "circuit_half_open", "circuit_closed"]


def test_who_found_the_way_before_it_was_shut_goes_it():
    """A call that passed the breaker before the circuit opened is no probe: its result does not close the circuit."""
    stage = Stage()
    way = stage.router.route
    stage.fail(2)
    late = stage.call(way)
    stage.clock.advance(10.0)
    stage.call()
    stage.end(late)
    assert stage.told == ["circuit_opened", "circuit_half_open"]


def test_who_found_the_way_while_it_was_shut_goes_it_once_it_is_open():
    """A call that starts while the circuit is open and reaches the breaker after it closed is accepted."""
    stage = Stage()
    stage.fail(2)
    way = stage.router.route
    stage.clock.advance(10.0)
    stage.end(stage.call())
    stage.end(stage.call(way))
    assert stage.told[-1] == "circuit_closed"


@pytest.mark.parametrize("failures", [0, 1])
def test_ejection_is_told_of_each_result_beside_the_breaker(failures):
    """Outlier ejection gets every result, whether or not the breaker wants it."""
    stage = Stage(outlier=OutlierPolicy())
    stage.fail(failures)
    for _ in range(3):
        stage.end(stage.call())
    record = stage.lane.call_record
    assert (record.calls, record.seconds, record.failures_in_row) == (3, 0.75, 0)
    assert stage.told == []


def test_ejection_is_told_of_each_failure_beside_the_breaker():
    """Both outlier ejection and the breaker count each failure."""
    stage = Stage(outlier=OutlierPolicy())
    stage.fail(2)
    assert stage.lane.call_record.failures_in_row == 2
    assert stage.told == ["circuit_opened"]
