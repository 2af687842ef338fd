"""The rules of `MethodRouter`: methods with a concurrency limit, and methods that are answered in batches."""

from __future__ import annotations

from math import inf

import pytest

from sage_deploy_testing.doubles.fake_replica import Act, Behaviour, open_replica
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins.call.call import Call
from sage_plugins.errors import OverloadedError
from sage_plugins.routing.method_limits import MethodRouter
from sage_plugins.values import BatchPlan, CallOptions, MethodKind, MethodPlan, Outcome

FREE = MethodPlan(0, "free", MethodKind.SYNC, idempotent=False, timeout=inf)
ONE = MethodPlan(1, "one", MethodKind.SYNC, idempotent=False, timeout=inf, max_concurrency=1)
TRIO = MethodPlan(
    2, "trio", MethodKind.SYNC, idempotent=False, timeout=inf, batch=BatchPlan("trios", MethodKind.SYNC, 3, 1.0)
)


class Stage:
    """A method router with one fake replica, whose methods hang by default."""

    def __init__(self, slots, *, queue_size=10, reject=False):
        self.clock = VirtualClock()
        self.counted = []
        self.started = []
        self.router = MethodRouter(
            "kv",
            self.clock,
            queue_size=queue_size,
            reject=reject,
            count=self.count,
            refused=lambda *_: None,
        )
        self.open(slots)

    def count(self, _method, outcome, _wait_s, _run_s):
        self.counted.append(outcome)

    def open(self, slots):
        self.replica, self.lane = open_replica(
            self.router,
            self.clock,
            slots,
            script=lambda _: Act(Behaviour.HANG),
            started=lambda call: self.started.append(call.args[0]),
            record=self.count,
        )

    def call(self, name, method, *, timeout=inf):
        now = self.clock.monotonic()
        call = Call(self.router, method, (name,), {}, CallOptions(), now, now + timeout, now + timeout, None)
        self.router.route(call)
        self.clock.advance(0)
        return call

    def answer(self):
        self.replica.release_hung()
        self.clock.advance(0)


def test_calls_of_other_methods_go_ahead_of_one_that_waits_for_its_turn():
    """Calls of other methods overtake a call that waits for its method's limit."""
    stage = Stage(3)
    for name, method in (("a", ONE), ("b", ONE), ("c", FREE), ("d", FREE), ("e", FREE)):
        stage.call(name, method)
    assert stage.started == ["a", "c", "d"]
    stage.answer()
    assert stage.started == ["a", "c", "d", "b", "e"]


def test_a_call_without_a_turn_is_refused_by_a_full_queue_though_slots_are_free():
    """A full queue refuses a call above its method's limit, even while slots are free."""
    stage = Stage(3, queue_size=0, reject=True)
    stage.call("a", ONE)
    with pytest.raises(OverloadedError):
        stage.call("b", ONE)
    stage.call("c", FREE)
    assert stage.started == ["a", "c"]


def test_an_idle_replica_waits_for_others_until_the_batch_is_full():
    """An idle replica waits until the batch is full, then runs it in one slot."""
    stage = Stage(1)
    calls = [stage.call(name, TRIO) for name in "ab"]
    assert stage.started == []
    calls.append(stage.call("c", TRIO))
    assert stage.started == list("abc")
    assert stage.lane.inflight == 1
    stage.answer()
    assert [call.result() for call in calls] == [("answer", (name,)) for name in "abc"]


def test_an_idle_replica_waits_for_others_no_longer_than_it_may():
    """An idle replica waits for more calls no longer than the batch's `wait`."""
    stage = Stage(1)
    stage.call("a", TRIO)
    stage.clock.advance(0.9)
    assert stage.started == []
    stage.clock.advance(0.1)
    assert stage.started == ["a"]


def test_a_call_with_little_time_starts_its_batch_in_time():
    """A batch starts early enough for its call with the earliest deadline."""
    stage = Stage(1)
    call = stage.call("a", TRIO, timeout=0.5)
    stage.clock.advance(0.25)
    assert stage.started == ["a"]
    assert not call.over()


def test_a_batch_that_may_not_wait_starts_at_once():
    """A batch with `wait` 0 starts at once."""
    stage = Stage(1)
    at_once = TRIO._replace(batch=TRIO.batch._replace(wait=0.0))
    stage.router.route(Call(stage.router, at_once, ("a",), {}, CallOptions(), 0.0, inf, inf, None))
    assert stage.lane.methods.open == {}


@pytest.mark.parametrize("limited", [ONE, TRIO])
def test_only_calls_of_methods_without_limits_are_sent_ahead(limited):
    """Only calls of methods without limits are sent ahead: none behind a limited call, and no limited call."""
    free, limited = FREE._replace(idempotent=True), limited._replace(idempotent=True)
    for first, others, sent in ((free, free, 4), (free, limited, 0), (limited, free, 0)):
        stage = Stage(1)
        running = stage.call("a", first)
        for name in "bcde":
            stage.call(name, others)
        assert len(stage.lane.ahead(running, 10)) == sent


def test_a_busy_replica_takes_those_that_wait_and_waits_for_nobody():
    """A busy replica starts a batch of the calls that wait already, and waits for no more."""
    stage = Stage(1)
    for name, method in (("x", FREE), ("a", TRIO), ("y", FREE), ("b", TRIO)):
        stage.call(name, method)
    stage.answer()
    assert stage.started == ["x", "a", "b"]


def test_a_call_that_is_cancelled_while_its_batch_waits_makes_room_in_it():
    """A call cancelled while its batch waits leaves its place to another call."""
    stage = Stage(1)
    given_up = stage.call("a", TRIO)
    stage.call("b", TRIO)
    assert given_up.cancel()
    stage.call("c", TRIO)
    assert stage.started == []
    stage.call("d", TRIO)
    assert stage.started == list("bcd")
    assert stage.counted == [Outcome.CANCELLED]


def test_a_slot_is_abandoned_only_when_all_calls_of_its_batch_are():
    """A batch's slot counts as abandoned only when all its calls are abandoned."""
    stage = Stage(1)
    calls = [stage.call(name, TRIO) for name in "abc"]
    idle = []
    stage.router.drain("stops", lambda: idle.append(True))
    for call in calls[:2]:
        call.abandon()
    assert (stage.lane.abandoned, idle) == (0, [])
    calls[2].abandon()
    assert stage.lane.abandoned == 1
    assert idle


def test_calls_whose_batch_had_not_started_go_to_another_replica_when_theirs_dies():
    """If a replica dies before its batch started, the calls of the batch run on another replica."""
    stage = Stage(1)
    calls = [stage.call(name, TRIO) for name in "ab"]
    stage.replica.die()
    stage.clock.advance(0)
    stage.open(1)
    stage.clock.advance(1)
    assert stage.started == ["a", "b"]
    assert not any(call.over() for call in calls)


def test_a_service_that_drains_waits_for_nobody_to_join_a_batch():
    """While the service drains, a batch starts without waiting for more calls."""
    stage = Stage(1)
    stage.call("a", TRIO)
    stage.router.drain("stops", lambda: None)
    stage.clock.advance(0)
    assert stage.started == ["a"]


def test_calls_of_a_batch_that_end_before_it_starts_leave_nothing_to_count_as_abandoned():
    """Calls of a batch that ended before it started are not counted as abandoned, whichever end is reported first."""
    for order in ("given up first", "ended first"):
        stage = Stage(1)
        call = stage.call("a", TRIO)
        call.claim()
        stage.clock.advance(1)  # the batch starts without it, and ends
        steps = [lambda: call.abandon(), lambda: stage.router.abandoned_ended(call)]  # noqa: B023, PLW0108 - at once
        for step in steps if order == "given up first" else reversed(steps):
            step()
        assert stage.lane.abandoned == 0, order
        assert stage.lane.inflight == 0, order
