"""Which calls wait, in which order they start, when they are refused, and how they end at their deadlines."""

from __future__ import annotations

from math import inf

import pytest

from router_stage import Stage, Turns, answer_of, end_of
from sage_deploy_testing.doubles.fake_replica import Behaviour
from sage_plugins.errors import (
    CallTimeoutError,
    OverloadedError,
    ReentrantCallError,
)
from sage_plugins.values import Outcome


def test_calls_wait_for_the_first_replica():
    """Without a replica calls wait; the first replica starts as many as it has slots."""
    stage = Stage()
    calls = [stage.call(name) for name in "abc"]
    assert stage.router.waiting == 3
    stage.open(2)
    stage.clock.advance(0)
    assert stage.names == ["a", "b"]
    assert not any(call.over() for call in calls)


def test_a_freed_slot_goes_to_the_call_that_waits_longest():
    stage = Stage()
    replica = stage.open(behaviour=Behaviour.ANSWER, seconds=1)
    calls = [stage.call(name) for name in "abcd"]
    stage.clock.advance(10)
    assert stage.names == list("abcd")
    assert [answer_of(call) for call in calls] == [("answer", (name,)) for name in "abcd"]
    assert replica.taken == 0
    assert replica.lane.inflight == 0


def test_the_oldest_wait_is_that_of_the_call_that_waits_longest():
    """
    `oldest_wait` is the time of the call that has waited longest, and 0 if none waits.

    Running calls do not count.
    """
    stage = Stage()
    stage.call("a")
    stage.clock.advance(0.25)
    assert stage.router.oldest_wait() == 0.25
    stage.open()
    assert stage.router.oldest_wait() == 0.0
    stage.call("b")
    stage.clock.advance(0.5)
    stage.call("c")
    assert stage.router.oldest_wait() == 0.5


def test_queue_size_0_hands_calls_to_free_slots_only():
    """With `queue_size` 0 a call is accepted only if a slot is free."""
    stage = Stage(queue_size=0, reject=True)
    replica = stage.open(2)
    stage.call("a")
    stage.call("b")
    with pytest.raises(OverloadedError):
        stage.call("c")
    replica.release_hung()
    stage.call("d")
    assert stage.names == ["a", "b", "d"]


def test_queue_size_0_finds_the_free_slot_beside_the_replica_chosen():
    """With `queue_size` 0 a call goes to any free slot if the chosen replica has none."""
    stage = Stage(queue_size=0, reject=True, balancer=Turns())
    busy = stage.open(1, index=0)
    stage.open(3, index=1)
    for name in "abcd":  # the third call's turn is the first replica again
        stage.call(name)
    assert sorted(stage.started) == [(0, "a"), (1, "b"), (1, "c"), (1, "d")]
    assert busy.taken == 1
    with pytest.raises(OverloadedError):
        stage.call("e")


def test_a_refusal_names_service_method_and_knob():
    """
    OverloadedError names the service, the method and the option to change, and the call does not count as answered.
    """
    stage = Stage(queue_size=1, reject=True)
    stage.open()
    stage.call("a")
    stage.call("b")
    with pytest.raises(OverloadedError, match=r"kv\.once was not accepted: .*queue_size=1") as caught:
        stage.call("c")
    assert "raise `queue_size`" in str(caught.value)
    assert (caught.value.service, caught.value.method) == ("kv", "once")
    assert stage.refused == ["overloaded"]
    assert stage.counted == []  # it was not accepted


def test_a_bound_of_thousands_is_as_exact_as_a_small_one():
    stage = Stage(queue_size=2500, reject=True)
    for name in range(2500):
        stage.call(name)
    with pytest.raises(OverloadedError):
        stage.call("one more")
    assert stage.router.waiting == 2500


def test_parked_calls_are_admitted_in_order_and_start_in_order():
    """Parked calls enter the queue, and start, in the order in which they came."""
    stage = Stage(queue_size=1)
    replica = stage.open()
    calls = {name: stage.call(name) for name in "abcde"}
    assert [name for name, call in calls.items() if call.parked] == ["c", "d", "e"]
    assert (stage.router.waiting, stage.router.parked) == (1, 3)
    replica.release_hung()
    stage.clock.advance(0)
    assert [name for name, call in calls.items() if call.parked] == ["d", "e"]
    calls["c"].cancel()  # makes room among the parked calls
    assert [name for name, call in calls.items() if call.parked] == ["e"]
    for _ in range(4):
        replica.release_hung()
        stage.clock.advance(0)
    assert stage.names == list("abde")


def test_a_parked_call_that_gives_up_leaves_no_trace():
    """A parked call that expires ends with CallTimeoutError and leaves nothing behind."""
    stage = Stage(queue_size=1)
    stage.open()
    running, queued, parked = (
        stage.call(name, timeout=timeout) for name, timeout in (("a", inf), ("b", inf), ("c", 1))
    )
    parked.add_done_callback(lambda _: None)
    stage.clock.advance(1)
    error = end_of(parked)
    assert isinstance(error, CallTimeoutError)
    assert error.stage == "queue"
    assert (stage.router.waiting, stage.router.parked) == (1, 0)
    assert not running.over()
    assert not queued.over()


def test_a_watched_call_ends_at_its_deadline_and_keeps_its_slot():
    """A call with a callback ends at its deadline, and its slot stays taken until the method returns."""
    stage = Stage()
    replica = stage.open()
    call, ended = stage.call("a", timeout=2), []
    call.add_done_callback(lambda _: ended.append(stage.clock.monotonic()))
    waiting = stage.call("b")
    stage.clock.advance(5)
    assert ended == [call.since + 2]
    assert end_of(call).stage == "run"
    assert replica.lane.abandoned == 1
    assert stage.names == ["a"]
    replica.release_hung()
    stage.clock.advance(0)
    assert replica.lane.abandoned == 0
    assert stage.names == ["a", "b"]
    assert not waiting.over()
    assert stage.counted == [Outcome.TIMEOUT]


def test_queue_timeout_ends_a_watched_call_that_waits_and_spares_one_that_runs():
    """`queue_timeout` ends a call that waits, but not one that runs."""
    stage = Stage()
    stage.open()
    runs, waits = (stage.call(name, timeout=10, queue_timeout=1) for name in "ab")
    for call in (runs, waits):
        call.add_done_callback(lambda _: None)
    stage.clock.advance(1)
    assert end_of(waits).stage == "queue"
    assert not runs.over()
    stage.clock.advance(9)
    assert end_of(runs).stage == "run"


def test_what_expired_in_the_queue_never_starts():
    """A call that expired in the queue never starts."""
    stage = Stage()
    replica = stage.open()
    stage.call("a")
    expired = stage.call("b", timeout=1)  # it has no callback
    stage.clock.advance(3)
    replica.release_hung()
    stage.clock.advance(0)
    assert stage.names == ["a"]
    assert end_of(expired).stage == "queue"
    assert replica.taken == 0


def test_expired_calls_that_nobody_watches_make_room_in_a_full_queue():
    """Expired calls without callbacks make room in a full queue."""
    stage = Stage(queue_size=2, reject=True)
    stage.open()
    stage.call("a")
    expired = [stage.call(name, timeout=1) for name in "bc"]
    with pytest.raises(OverloadedError):
        stage.call("d")
    stage.clock.advance(1)
    stage.call("e")
    assert [end_of(call).stage for call in expired] == ["queue", "queue"]
    assert stage.router.waiting == 1


def test_a_call_ends_that_would_wait_for_itself_wherever_it_could_go():
    """A call that would wait for itself on every replica ends with ReentrantCallError."""
    stage = Stage(balancer=Turns())
    first, second = stage.open(), stage.open(index=1)
    for replica in (first, second):
        replica.lane.send = lambda _call: None
    call = stage.call("a")
    lane = call.lane
    assert call.claim()
    lane.refused(call, stuck=True)
    assert not call.over()
    assert call.lane not in {None, lane}, "the other replica may have a slot for it"
    assert call.claim()
    call.lane.refused(call, stuck=True)
    assert isinstance(end_of(call), ReentrantCallError)
    assert stage.router.waiting == 0
