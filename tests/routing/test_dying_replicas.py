"""What happens to calls when a replica dies, and to those that come or wait while there is none."""

from __future__ import annotations

from math import inf

import pytest

from router_stage import ONCE, TWICE, ByKey, Stage, answer_of, end_of
from sage_deploy_testing.doubles.fake_replica import Behaviour
from sage_deploy_testing.simulation.simulation_rules import UNBOUNDED
from sage_plugins.call.call import Call
from sage_plugins.config.nested_keys import Policies
from sage_plugins.errors import (
    NoReplicaError,
    ReplicaDiedError,
    ServiceStoppedError,
)
from sage_plugins.routing.guarding.guards import Guards
from sage_plugins.values import CallOptions, Outcome


def test_a_call_that_did_not_start_goes_back_to_the_head_of_the_queue_when_its_replica_dies():
    """If a replica dies before a call started, the call returns to the head of the queue."""
    stage = Stage()
    replica = stage.open(behaviour=Behaviour.DIE_BEFORE)
    first, second, third = (stage.call(name) for name in "abc")
    assert not replica.alive
    assert stage.router.waiting == 3
    stage.open(index=1, behaviour=Behaviour.ANSWER, seconds=1)
    stage.clock.advance(10)
    assert stage.names == ["a", "b", "c"]
    assert all(answer_of(call)[0] == "answer" for call in (first, second, third))


def test_a_started_call_ends_with_its_replica_and_is_not_run_again():
    """A call that has started ends with ReplicaDiedError when its replica dies, and never runs twice."""
    stage = Stage(guards=Guards(Policies(UNBOUNDED)))
    stage.open(behaviour=Behaviour.DIE_AFTER)
    call = stage.call("a")
    error = end_of(call)
    assert isinstance(error, ReplicaDiedError)
    assert error.maybe_executed
    assert error.replica == "kv#0"
    stage.open(index=1)
    stage.clock.advance(10)
    assert stage.names == ["a"]
    assert stage.counted == [Outcome.DIED]


def test_an_idempotent_call_is_started_once_more_and_no_more():
    """An idempotent call whose replica dies starts once more, and no more."""
    stage = Stage(guards=Guards(Policies(UNBOUNDED)))
    stage.open(behaviour=Behaviour.DIE_DURING)
    call = stage.call("a", method=TWICE)
    assert not call.over()
    assert call.cancel() is False  # it may have had an effect
    stage.open(index=1, behaviour=Behaviour.DIE_DURING)
    stage.clock.advance(1)
    assert stage.started == [(0, "a"), (1, "a")]
    assert isinstance(end_of(call), ReplicaDiedError)


def test_without_failover_an_idempotent_call_dies_with_its_replica():
    """Without guards an idempotent call ends with ReplicaDiedError when its replica dies."""
    stage = Stage()
    stage.open(behaviour=Behaviour.DIE_DURING)
    assert isinstance(end_of(stage.call("a", method=TWICE)), ReplicaDiedError)


def test_calls_that_waited_for_a_replica_of_their_own_go_to_those_that_come():
    """Calls that wait for a replica that left, or had none yet, go to the next replica that opens."""
    stage = Stage(balancer=ByKey())
    stage.call("a", key=0)
    stage.call("b", key=0)
    first = stage.open(index=0)
    stage.clock.advance(0)
    assert stage.names == ["a"]
    stage.router.close_lane(first.lane)
    stage.call("c", key=0)
    stage.open(3, index=1)
    stage.clock.advance(0)
    assert stage.names == ["a", "b", "c"]


def test_without_a_replica_for_good_calls_end_and_are_refused_until_one_opens():
    """If no replica can start, waiting and new calls end with NoReplicaError until a replica opens."""
    stage = Stage()
    waiting = stage.call("a")
    stage.router.unavailable(lambda: NoReplicaError("kv has no replica left", service="kv"))
    assert isinstance(end_of(waiting), NoReplicaError)
    with pytest.raises(NoReplicaError):
        stage.call("b")
    assert stage.refused == ["no_replica"]
    stage.open()
    stage.call("c")
    assert stage.names == ["c"]


def test_calls_are_not_refused_for_want_of_a_replica_while_there_is_one():
    """`unavailable` refuses no calls while a replica serves, since the report may be outdated."""
    stage = Stage()
    stage.open()
    stage.call("a")
    waiting = stage.call("b")
    stage.router.unavailable(lambda: NoReplicaError("kv has no replica left", service="kv"))
    assert not waiting.over()
    stage.call("c")
    assert stage.refused == []


def test_a_call_that_finds_its_refusal_out_of_date_is_accepted():
    """A call on its way to a refusal is accepted if a replica opened meanwhile."""
    stage = Stage()
    stage.router.unavailable(lambda: NoReplicaError("kv has no replica left", service="kv"))
    outdated = stage.router.route
    stage.open()
    call = Call(stage.router, ONCE, ("a",), {}, CallOptions(), stage.clock.monotonic(), inf, inf, None)
    assert outdated(call)
    stage.clock.advance(0)
    assert (stage.names, stage.refused) == (["a"], [])


def test_a_replica_that_dies_after_the_end_leaves_no_call_behind():
    """A replica whose death is noticed after `end` leaves no call behind: it ends with ServiceStoppedError."""
    stage = Stage()
    dying = stage.open(behaviour=Behaviour.DIE_BEFORE)
    dying.die(report_after=1)
    call = stage.call("a")
    stage.router.drain("is stopping", lambda: None)
    stage.router.end()
    assert not call.over()
    stage.clock.advance(1)
    assert isinstance(end_of(call), ServiceStoppedError)


def test_a_replica_that_dies_after_the_service_was_given_up_leaves_no_call_behind():
    """A replica whose death is noticed after `unavailable` leaves no call behind: it ends with NoReplicaError."""
    stage = Stage()
    dying = stage.open()
    dying.die(report_after=1)
    call = stage.call("a")
    stage.router.close_lane(dying.lane)
    stage.router.unavailable(lambda: NoReplicaError("kv has no replica left", service="kv"))
    stage.clock.advance(1)
    assert isinstance(end_of(call), NoReplicaError)
