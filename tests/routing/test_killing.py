"""A router kills replicas in which a call runs past its deadline, in virtual time."""

from __future__ import annotations

import threading
from contextvars import copy_context
from math import inf

import pytest

from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins.call.call import Call
from sage_plugins.config.nested_keys import Policies
from sage_plugins.errors import CallTimeoutError
from sage_plugins.routing.guarding.guards import Guards
from sage_plugins.routing.guarding.killing import STOPS_WITHIN_S
from sage_plugins.routing.router import Router
from sage_plugins.values import CallOptions, MethodKind, MethodPlan


class Replica:
    """Keeps its calls running until the test ends them."""

    id, index, node, run_here, slots = "svc#0", 0, None, None, 2

    def __init__(self):
        self.give_up = lambda *_: False
        self.killed = threading.Event()
        self.causes = []

    def send(self, call):
        call.claim()

    def kill(self, cause):
        self.causes.append(str(cause))
        return True


class Stage:
    def __init__(self):
        self.clock = VirtualClock()
        self.replica = Replica()
        self.told = []
        self.router = Router(
            "svc",
            self.clock,
            queue_size=100,
            reject=False,
            guards=Guards(Policies(), self.tell, kills=True),
            count=lambda *_: None,
            refused=lambda *_: None,
        )
        self.lane = self.router.lane("svc#0", 0)
        self.router.open(self.lane, self.replica)

    def tell(self, kind, reason, replica):
        self.told.append((kind, replica))
        self.replica.killed.set()

    def call(self, timeout, kind=MethodKind.SYNC):
        plan = MethodPlan(0, "get", kind, idempotent=False, timeout=timeout)
        until = self.clock.monotonic() + timeout
        arguments = (plan, (), {}, CallOptions(), self.clock.monotonic(), until, until, copy_context())
        call = Call(self.router, *arguments)
        self.router.route(call)
        return call

    def end(self, call):
        call.owner.abandoned_ended(call)
        self.lane.freed(call)

    def after(self, seconds):
        self.clock.run_until(self.clock.monotonic() + seconds)

    def is_killed(self):
        assert self.replica.killed.wait(20)
        return self.told == [("replica_killed", "svc#0")] and len(self.replica.causes) == 1

    def is_spared(self):
        return not self.router._guards._killing._running_on and not self.replica.causes


@pytest.fixture
def stage():
    stage = Stage()
    yield stage
    stage.router.end()


def test_call_for_which_nobody_waits_ends_at_its_deadline_and_its_replica_with_it(stage):
    """A call that nobody awaits ends at its deadline, the earliest one first, and the router kills its replica."""
    first, call = stage.call(5.0), stage.call(1.0)
    stage.after(0.9)
    assert not call.settled()
    stage.after(0.1)
    assert call.settled()
    assert isinstance(call.exception(0), CallTimeoutError)
    assert not first.settled()
    assert stage.is_killed()
    assert "svc.get ran on after its deadline" in stage.replica.causes[0]


def test_error_of_a_killed_call_says_that_its_replica_is_killed(stage):
    """With `timeout_strength: kill`, the timeout error announces the end of the replica, not a method that keeps it."""
    call = stage.call(1.0)
    stage.after(1.0)
    assert "the replica is killed if the method does not stop" in str(call.exception(0))
    assert stage.is_killed()


def test_call_that_never_started_kills_nothing(stage):
    """A call that expires in the queue kills no replica."""
    calls = [stage.call(inf), stage.call(inf), stage.call(1.0)]
    stage.after(1.0)
    assert calls[2].exception(0).stage == "queue"
    assert stage.is_spared()


def test_call_that_never_started_says_whether_a_replica_takes_calls(stage):
    """The error of a call that expires in the queue gives advice, or says that no replica takes calls."""
    calls = [stage.call(inf), stage.call(inf), stage.call(1.0)]
    stage.after(1.0)
    assert "Add threads or replicas" in str(calls[2].exception(0))
    stage.router.close_lane(stage.lane)
    late = stage.call(1.0)
    stage.after(1.0)
    assert "No replica takes calls now" in str(late.exception(0))


@pytest.mark.parametrize("kind", [MethodKind.ASYNC, MethodKind.GENERATOR, MethodKind.ASYNC_GENERATOR])
def test_what_can_stop_gets_a_second_for_that(stage, kind):
    """Coroutines and generators have a second to stop after their deadline before the router kills their replica."""
    call = stage.call(1.0, kind)
    stage.after(1.0)
    assert call.settled()
    stage.end(call)
    stage.after(2 * STOPS_WITHIN_S)
    assert stage.is_spared()
    stage.call(1.0, kind)
    stage.after(1.0 + STOPS_WITHIN_S / 2)
    assert not stage.replica.causes
    stage.after(STOPS_WITHIN_S / 2)
    assert stage.is_killed()


def test_calls_that_are_over_are_not_kept(stage):
    """The router keeps no reference to calls that ended or were refused."""
    call = stage.call(1.0)
    call.claim_outcome()
    stage.lane.freed(call)
    call.publish(1, None)
    stage.router.drain("was stopped", lambda: None)
    with pytest.raises(Exception, match="was stopped"):
        stage.call(1.0)
    assert not stage.router._guards._killing._open


def test_call_waits_in_the_queue_until_it_has_a_slot(stage):
    """No call is sent ahead: at its deadline its replica would be killed for a call that had not started."""
    running = [stage.call(5.0), stage.call(5.0)]
    waits = [stage.call(1.0) for _ in range(9)]
    assert stage.lane.ahead(running[0], 10, told=True) == []
    stage.after(1.0)
    assert all(call.settled() and not hasattr(call, "began") for call in waits)
    assert stage.is_spared()
