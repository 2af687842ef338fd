"""A router's circuit breaker in virtual time: when it refuses calls, and which calls are probes."""

from __future__ import annotations

from contextvars import copy_context
from math import inf

import pytest

from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins.call.call import Call
from sage_plugins.config.nested_keys import BreakerPolicy, Policies, RetryPolicy
from sage_plugins.errors import CircuitOpenError, OverloadedError, ReplicaDiedError
from sage_plugins.routing.guarding.guards import Guards
from sage_plugins.routing.router import Router
from sage_plugins.values import CallOptions, MethodKind, MethodPlan

PLAN = MethodPlan(0, "get", MethodKind.SYNC, idempotent=False, timeout=inf)


class OutOfOrderError(Exception):
    """An exception that `retry.on` names."""


class Replica:
    """Keeps its calls running until the test ends them."""

    id, index, slots, node, run_here = "svc#0", 0, 1, None, None

    def give_up(self, *_):
        return False

    def send(self, call):
        call.claim()
        call.began = call.owner.clock.monotonic()


class Stage:
    """A service with one slot and no queue. Two failures open its circuit for ten seconds."""

    def __init__(self, retry=None):
        self.clock = VirtualClock()
        self.told, self.refused = [], []
        policies = Policies(retry, BreakerPolicy(failures=2, window=10.0, open=10.0))
        self.router = Router(
            "svc",
            self.clock,
            queue_size=0,
            reject=True,
            guards=Guards(policies, lambda kind, reason, _: self.told.append((str(kind), reason))),
            count=lambda *_: None,
            refused=lambda _method, reason: self.refused.append(reason),
        )
        self.open("svc#0")

    def open(self, id):
        self.lane = self.router.lane(id, 0)
        self.router.open(self.lane, Replica())

    def call(self):
        now = self.clock.monotonic()
        call = Call(self.router, PLAN, (), {}, CallOptions(), now, inf, inf, copy_context())
        self.router.route(call)
        return call

    def end(self, call, error=None):
        call.claim_outcome()
        call.ended = self.clock.monotonic()
        self.lane.freed(call)
        call.publish(None, error)

    def fail(self, times, error=None):
        for _ in range(times):
            self.end(self.call(), error or ReplicaDiedError("gone", service="svc"))

    @property
    def kinds(self):
        return [kind for kind, _ in self.told]


def test_after_failures_in_a_row_calls_are_refused_until_a_probe_succeeds():
    """After failures in a row the circuit refuses calls and says when to call again, until a probe succeeds."""
    stage = Stage()
    stage.fail(2)
    stage.clock.advance(4.0)
    with pytest.raises(CircuitOpenError, match=r"svc\.get was not run: .* Call again after 6 s") as caught:
        stage.call()
    assert (caught.value.retry_after, caught.value.service, caught.value.method) == (6.0, "svc", "get")
    assert stage.refused == ["circuit_open"]
    stage.clock.advance(6.0)
    probe = stage.call()
    with pytest.raises(CircuitOpenError, match="1 probes of 1 are on their way"):
        stage.call()
    stage.end(probe)
    stage.end(stage.call())
    assert stage.kinds == ["circuit_opened", "circuit_half_open", "circuit_closed"]
    assert stage.told[0][1].startswith("the circuit breaker is open: 2 calls in a row failed")
    assert stage.told[1][1].startswith("the circuit breaker is half open: ")


def test_a_success_in_between_has_the_count_begin_again():
    """A success resets the count of failures in a row."""
    stage = Stage()
    for _ in range(3):
        stage.fail(1)
        stage.end(stage.call())
    assert stage.kinds == []


def test_a_probe_that_fails_opens_it_again():
    """A probe that fails opens the circuit again for its full time."""
    stage = Stage()
    stage.fail(2)
    stage.clock.advance(10.0)
    stage.fail(1)
    with pytest.raises(CircuitOpenError, match="Call again after 10 s"):
        stage.call()
    assert stage.kinds == ["circuit_opened", "circuit_half_open", "circuit_opened"]


def test_a_probe_that_is_not_accepted_makes_room_for_another():
    """A probe that no replica accepts does not use up the probes: the next call is a probe too."""
    stage = Stage()
    stage.fail(2)
    stage.router.close_lane(stage.lane)
    stage.clock.advance(10.0)
    for _ in range(2):
        with pytest.raises(OverloadedError, match="queue_size=0"):
            stage.call()
    stage.open("svc#0.1")
    stage.end(stage.call())
    assert stage.kinds == ["circuit_opened", "circuit_half_open", "circuit_closed"]


@pytest.mark.parametrize(("error", "opens"), [(OutOfOrderError(), True), (ValueError(), False)])
def test_exceptions_are_the_services_fault_where_retry_names_them(error, opens):
    """An exception counts as a failure of the service only if `retry.on` names it."""
    stage = Stage(RetryPolicy(on=("OutOfOrderError",)))
    stage.fail(2, error)
    assert stage.kinds == (["circuit_opened"] if opens else [])
    stage = Stage()
    stage.fail(2, error)
    assert stage.kinds == []
