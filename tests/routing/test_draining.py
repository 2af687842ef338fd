"""A router that drains or closes a lane refuses new calls and moves or finishes the others."""

from __future__ import annotations

from contextvars import copy_context
from math import inf

import pytest

from router_stage import ONCE, ByKey, Stage, Turns, answer_of, end_of
from sage_deploy_testing.doubles.fake_replica import Behaviour
from sage_plugins.call.call import Call
from sage_plugins.call.current import CURRENT
from sage_plugins.errors import (
    CallCancelledError,
    ServiceStoppedError,
)
from sage_plugins.values import CallOptions, Outcome


def test_drain_refuses_new_and_parked_calls_and_finishes_the_others():
    """`drain` refuses new and parked calls and finishes running and queued ones. It then reports the service idle."""
    stage = Stage(queue_size=1)
    replica, idle = stage.open(), []
    running, queued, parked = (stage.call(name) for name in "abc")
    stage.router.drain("is stopping", lambda: idle.append(stage.clock.monotonic()))
    assert isinstance(end_of(parked), ServiceStoppedError)
    with pytest.raises(ServiceStoppedError, match="service 'kv' is stopping"):
        stage.call("d")
    assert stage.refused == ["stopped"]
    for _ in range(2):
        assert not idle
        stage.clock.advance(1)
        replica.release_hung()
    assert idle
    assert answer_of(running) == ("answer", ("a",))
    assert answer_of(queued) == ("answer", ("b",))
    assert replica.lane.inflight == 0


def test_drain_does_not_wait_for_abandoned_calls():
    """`drain` does not wait for abandoned calls."""
    stage = Stage()
    stage.open()
    idle, call = [], stage.call("a")
    stage.router.drain("is stopping", lambda: idle.append(True))
    assert not idle
    call.abandon()
    assert idle
    assert isinstance(end_of(call), CallCancelledError)


def test_parked_calls_of_services_stay_when_others_are_turned_away():
    """
    `close_to_outsiders` refuses parked calls from outside.

    Calls made by services stay, since earlier calls may need them.
    """
    stage = Stage(queue_size=1)
    stage.open()
    running, waiting = stage.call("a"), stage.call("b")
    within = copy_context()
    within.run(CURRENT.set, running)
    parked = {}
    for name, context in (("nobody's", None), ("outsider's", copy_context()), ("service's", within)):
        call = Call(stage.router, ONCE, (name,), {}, CallOptions(), stage.clock.monotonic(), inf, inf, context)
        stage.router.route(call)
        parked[name] = call
    assert stage.router.parked == 3
    stage.router.close_to_outsiders("is stopping", lambda: None)
    assert {name: call.over() for name, call in parked.items()} == {
        "nobody's": True,
        "outsider's": True,
        "service's": False,
    }
    assert not waiting.over()


def test_drain_moves_what_did_not_start_to_the_replicas_that_are_left():
    """During `drain`, a call whose replica dies before it started runs on another replica."""
    stage = Stage(balancer=Turns())
    stage.open(index=0, behaviour=Behaviour.ANSWER)
    dying = stage.open(index=1)
    stage.call("a")
    call = Call(stage.router, ONCE, ("b",), {}, CallOptions(), stage.clock.monotonic(), inf, inf, None)
    stage.router.route(call)
    assert list(dying.inbox) == [call]
    idle = []
    stage.router.drain("is stopping", lambda: idle.append(True))
    dying.die()
    stage.clock.advance(0)
    assert answer_of(call) == ("answer", ("b",))
    assert idle


def test_end_stops_what_still_waits():
    """`end` stops calls that still wait; running calls go on."""
    stage = Stage()
    stage.open()
    running, queued = stage.call("a"), stage.call("b")
    stage.router.drain("is stopping", lambda: None)
    stage.router.end()
    assert isinstance(end_of(queued), ServiceStoppedError)
    assert not running.over()
    assert stage.counted == [Outcome.STOPPED]


def test_calls_kept_for_a_replica_that_leaves_during_drain_find_the_others_slots():
    """If a replica leaves during `drain`, the calls that wait for it run in other replicas' slots."""
    stage = Stage(balancer=ByKey())
    first, idle = stage.open(index=0), []
    stage.open(index=1, behaviour=Behaviour.ANSWER)
    stage.call("a", key=0)
    kept = stage.call("b", key=0)
    stage.router.drain("is stopping", lambda: idle.append(True))
    stage.router.close_lane(first.lane)
    stage.clock.advance(0)
    assert answer_of(kept) == ("answer", ("b",))
    assert not idle
    first.release_hung()
    assert idle
