"""The router asks the balancer which replica gets a call, and replaces a balancer that is broken."""

from __future__ import annotations

from collections import Counter

import pytest

from router_stage import TWICE, ByKey, Stage, answer_of
from sage_deploy_testing.doubles.fake_replica import Behaviour, FakeReplica
from sage_plugins.errors import (
    InvalidKeyError,
)


def test_the_balancer_is_told_key_and_method_of_a_call():
    """The balancer gets each call's key and the name of its method."""
    asked = []

    class Asking:
        binding = False

        def picker(self, candidates):
            return lambda key, method: asked.append((key, method)) or candidates[0]

    stage = Stage(balancer=Asking())
    stage.open(2, index=0)
    stage.open(2, index=1)
    stage.call("a", key=7)
    stage.call("b", method=TWICE)
    assert asked == [(7, "once"), (None, "twice")]
    assert stage.balancer_errors == []


class StringsOnly(ByKey):
    def picker(self, candidates):
        pick = super().picker(candidates)

        def strings(key, method):
            if not isinstance(key, str):
                raise InvalidKeyError("strings only")
            return pick(int(key), method)

        return strings


def test_key_that_turns_out_wrong_ends_no_accepted_call():
    """With one replica keys are not checked. A waiting call whose key turns out invalid still runs elsewhere."""
    stage = Stage(balancer=StringsOnly())
    first = stage.open(index=0)
    stage.call("runs", key="0")
    waits = stage.call("waits", key=7)
    for index in (1, 2):
        stage.open(index=index, behaviour=Behaviour.ANSWER)
    with pytest.raises(InvalidKeyError, match=r"kv\.once was not run: strings only"):
        stage.call("refused", key=7)
    first.die()
    stage.clock.advance(0)
    assert answer_of(waits) == ("answer", ("waits",))
    assert stage.balancer_errors == []


def test_a_binding_balancer_keeps_a_call_for_its_choice():
    """A balancer that binds keeps a call waiting for its replica while another one is free."""
    stage = Stage(balancer=ByKey())
    first, second = stage.open(index=0), stage.open(index=1)
    for name in "abc":
        stage.call(name, key=0)
    assert (first.taken, second.taken, stage.router.waiting) == (1, 0, 2)
    stage.call("d", key=1)
    assert stage.started == [(0, "a"), (1, "d")]


def test_calls_kept_for_a_replica_that_leaves_go_to_another_in_order():
    """When a replica leaves, the calls that wait for it go to another one in order; running calls stay."""
    stage = Stage(balancer=ByKey())
    first, second = stage.open(index=0), stage.open(index=1)
    running, *_ = [stage.call(name, key=0) for name in "abc"]
    stage.router.close_lane(first.lane)
    stage.clock.advance(0)
    assert stage.started == [(0, "a"), (1, "b")]
    assert not running.over()  # a running call stays there
    second.release_hung()
    stage.clock.advance(0)
    assert stage.names == ["a", "b", "c"]


class Broken:
    binding = False

    def __init__(self, answer):
        self.answer = answer

    def picker(self, _candidates):
        return lambda _key, _method: self.answer() if callable(self.answer) else self.answer


@pytest.mark.parametrize(
    "answer", [lambda: 1 // 0, object(), None, []], ids=["raises", "foreign", "none", "unhashable"]
)
def test_a_broken_balancer_is_replaced_by_turns_and_reported_once(answer):
    """If a balancer raises or returns no replica, the router chooses in turn and reports it once."""
    stage = Stage(balancer=Broken(answer))
    for index in range(3):
        stage.open(4, index=index)
    for name in "abcdef":
        stage.call(name)
    assert Counter(index for index, _ in stage.started) == {0: 2, 1: 2, 2: 2}
    assert len(stage.balancer_errors) == 1


def test_without_balancing_the_second_replica_stands_by():
    """Without a balancer the second replica is a standby: it gets calls only once the first has died."""
    stage = Stage(balancer=None)
    first, second = stage.open(index=0), stage.open(index=1)
    stage.call("a")
    stage.call("b")
    assert (first.taken, second.taken, stage.router.waiting) == (1, 0, 1)
    first.die()
    stage.clock.advance(0)
    assert stage.started == [(0, "a"), (1, "b")]


def test_without_a_balancer_the_replica_that_came_last_stands_by():
    """Without a balancer the replica with the highest `seniority` number is the standby, whatever its index."""
    stage = Stage()
    stage.open(index=1)
    replica, lane = FakeReplica(None, stage.clock, 1), stage.router.lane("kv#0.1", 0, seniority=1)
    stage.router.open(lane, replica)
    stage.call("a")
    assert stage.started == [(1, "a")]
