"""Hedging in virtual time: which calls get a second attempt, which attempt decides, and that each call counts once."""

from __future__ import annotations

from contextvars import copy_context
from math import inf

import pytest

from sage_deploy_testing.doubles.fake_replica import Act, Behaviour, FakeReplica, open_replica
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins.call.call import Call
from sage_plugins.config.nested_keys import HedgePolicy, Policies, RetryPolicy
from sage_plugins.errors import CallTimeoutError
from sage_plugins.routing.guarding.guards import Guards
from sage_plugins.routing.method_limits import MethodRouter
from sage_plugins.routing.router import Router
from sage_plugins.values import BatchPlan, CallOptions, MethodKind, MethodPlan, Outcome

READ = MethodPlan(0, "read", MethodKind.SYNC, idempotent=True, timeout=inf)
WRITE = MethodPlan(1, "write", MethodKind.SYNC, idempotent=False, timeout=inf)
KINDS = pytest.mark.parametrize("kind", [Router, MethodRouter])


class FirstFree:
    """Chooses the first replica with a free slot."""

    binding = False

    def picker(self, candidates):
        return lambda _key, _method: next((each for each in candidates if each.free), candidates[0])


class Stage:
    """
    Two replicas with one slot each.

    The test chooses what the first does; the second answers after 0.1 s by default.
    """

    def __init__(self, first, kind=Router, *, hedge=HedgePolicy(1.0), retry=None, second=Act(seconds=0.1), slots=1):  # noqa: B008, PLR0913 - never changed
        self.clock = VirtualClock()
        self.counted, self.events, self.started = [], [], []
        self.router = kind(
            "svc",
            self.clock,
            queue_size=10,
            reject=False,
            guards=Guards(
                Policies(retry=retry, hedge=hedge), lambda kind, reason, _: self.events.append((str(kind), reason))
            ),
            count=self.count,
            refused=lambda *_: None,
            balancer=FirstFree(),
            aside=lambda body: body(),
        )
        self.replicas = [
            open_replica(
                self.router,
                self.clock,
                slots,
                index=index,
                script=lambda _, act=act: act,
                record=self.count,
                started=lambda call, index=index: self.started.append((index, self.clock.monotonic() - 1000)),
            )[0]
            for index, act in enumerate((first, second))
        ]

    def count(self, _method, outcome, _wait, _run):
        self.counted.append(outcome)

    def call(self, method=READ, *, timeout=30.0, idempotent=None):
        now = self.clock.monotonic()
        options = CallOptions(idempotent=idempotent)
        call = Call(self.router, method, ("x",), {}, options, now, now + timeout, now + timeout, copy_context())
        self.router.route(call)
        return call

    def settle(self):
        """Let every call end, then check that nothing is left."""
        self.clock.advance(100)
        for replica in self.replicas:
            replica.release_hung()
        self.clock.advance(100)
        lanes = self.router.lanes
        assert [(lane.inflight, lane.abandoned) for lane in lanes] == [(0, 0)] * len(lanes)
        assert self.router.idle
        assert self.router._queue.free == 10


@KINDS
def test_the_second_attempt_decides_if_the_first_is_slow(kind):
    """
    If the first attempt is slow, the second decides at once.

    The call counts once, and the slow answer is dropped.
    """
    stage = Stage(Act(seconds=5), kind)
    call = stage.call()
    stage.clock.advance(1.05)
    assert not call.over()
    assert stage.started == [(0, 0.0), (1, 1.0)]
    stage.clock.advance(0.1)
    assert call.result_now() == ("answer", ("x",))
    assert stage.counted == [Outcome.OK]
    assert [lane.abandoned for lane in stage.router.lanes] == [1, 0]
    assert [kind for kind, _ in stage.events] == ["hedged"]
    assert "read has no answer from svc#0 after 1 s: retry 1" in stage.events[0][1]
    stage.settle()
    assert stage.counted == [Outcome.OK]
    assert stage.router.retries["hedge"] == 1


@KINDS
def test_the_first_attempt_decides_if_it_is_answered_first(kind):
    """If the first attempt is answered first, it decides, and the second is abandoned."""
    stage = Stage(Act(seconds=1.5), kind, second=Act(seconds=5))
    call = stage.call()
    stage.clock.advance(1.6)
    assert call.result_now() == ("answer", ("x",))
    assert [lane.abandoned for lane in stage.router.lanes] == [0, 1]
    stage.settle()
    assert stage.counted == [Outcome.OK]


@KINDS
def test_a_call_that_is_quick_gets_no_second_attempt(kind):
    stage = Stage(Act(seconds=0.5), kind)
    calls = [stage.call() for _ in range(2)]
    stage.clock.advance(10)
    assert [index for index, _ in stage.started] == [0, 1]
    assert all(call.over() for call in calls)
    stage.settle()
    assert stage.events == []


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (WRITE, {}),
        (READ, {"idempotent": False}),
        (READ, {"timeout": 0.9}),
        (READ._replace(kind=MethodKind.GENERATOR), {}),
        (READ._replace(batch=BatchPlan("reads", MethodKind.SYNC, 2, 0.0)), {}),
    ],
    ids=["not idempotent", "by its caller", "no time", "a stream", "a batch"],
)
def test_only_calls_that_may_run_twice_and_have_time_get_a_second_attempt(method, options):
    """Calls that are not idempotent, have no time left, stream, or are batched get no second attempt."""
    stage = Stage(Act(Behaviour.HANG), MethodRouter if method.batch else Router)
    stage.call(method, **options)
    stage.clock.advance(10)
    assert [index for index, _ in stage.started] == [0]


def test_a_caller_may_declare_its_calls_idempotent():
    """A caller can declare its call idempotent, and it gets a second attempt."""
    stage = Stage(Act(Behaviour.HANG))
    assert stage.call(WRITE, idempotent=True)
    stage.clock.advance(2)
    assert len(stage.started) == 2


@KINDS
def test_without_a_free_slot_elsewhere_there_is_no_second_attempt(kind):
    """If no other replica has a free slot, there is no second attempt; nothing waits for one."""
    stage = Stage(Act(Behaviour.HANG), kind, second=Act(Behaviour.HANG))
    for _ in range(3):
        stage.call()
    stage.clock.advance(10)
    assert len(stage.started) == 2
    assert stage.router.waiting == 1


@KINDS
def test_second_attempts_stay_within_the_budget_of_retries(kind):
    """Second attempts use the retry budget. When it is used up, a call gets none, and an event says why."""
    stage = Stage(Act(Behaviour.HANG), kind, retry=RetryPolicy(budget=0.0, min=3), slots=8)
    for _ in range(5):
        stage.call(timeout=1e6)
    stage.clock.advance(1.5)
    assert len([index for index, _ in stage.started if index == 1]) == 3
    assert [kind for kind, _ in stage.events] == ["hedged", "hedge_refused"]
    assert "the budget is used up: 3 retries, 3 allowed" in stage.events[1][1]
    stage.settle()
    assert stage.counted == [Outcome.OK] * 5


@KINDS
@pytest.mark.parametrize("first", [0, 1], ids=["the first", "the second"])
def test_whatever_decides_is_what_the_caller_gets(kind, first):
    """If the attempt that ends first raises, that exception is the outcome."""
    acts = [Act(Behaviour.HANG), Act(Behaviour.HANG)]
    acts[first] = Act(Behaviour.RAISE, 2)
    stage = Stage(acts[0], kind, second=acts[1])
    call = stage.call()
    stage.clock.advance(4)
    assert call.over()
    assert call.exception_now() is not None
    stage.settle()
    assert stage.counted == [Outcome.ERROR]


@KINDS
def test_the_deadline_ends_both_attempts(kind):
    """At its deadline a call ends with CallTimeoutError, and both attempts are abandoned."""
    stage = Stage(Act(seconds=20), kind, second=Act(seconds=20))
    call = stage.call(timeout=3.0)
    call.add_done_callback(lambda _: None)
    stage.clock.advance(3.1)
    assert isinstance(call.exception_now(), CallTimeoutError)
    assert [lane.abandoned for lane in stage.router.lanes] == [1, 1]
    stage.settle()
    assert stage.counted == [Outcome.TIMEOUT]


class LooksFirst(FakeReplica):
    """Checks the deadline before it claims a call, as workers do."""

    def claim(self, call):
        return not call.expire() and super().claim(call)


@KINDS
def test_a_second_attempt_whose_time_is_over_before_it_starts_leaves_nothing(kind):
    """A second attempt that its replica finds expired frees its slot; the slot does not stay counted as abandoned."""
    stage = Stage(Act(seconds=20), kind)
    stage.router.close_lane(stage.router.lanes[1])
    open_replica(stage.router, stage.clock, index=2, replica=LooksFirst, pick_up=lambda: 5.0)
    call = stage.call(timeout=3.0)
    stage.clock.advance(8)
    assert not call.over()
    assert call.done(), "nobody has looked at its time before"
    stage.settle()
    assert stage.counted == [Outcome.TIMEOUT]


@KINDS
def test_a_caller_that_gives_up_ends_both_attempts(kind):
    """If the caller gives up, both attempts are abandoned and the call counts once."""
    stage = Stage(Act(seconds=20), kind, second=Act(seconds=20))
    call = stage.call()
    stage.clock.advance(2)
    assert call.abandon()
    stage.settle()
    assert stage.counted == [Outcome.CANCELLED]


@KINDS
def test_the_death_of_the_second_replica_leaves_the_first_attempt_alone(kind):
    """If the second attempt's replica dies, the first attempt goes on and decides."""
    stage = Stage(Act(seconds=5), kind, second=Act(Behaviour.HANG))
    call = stage.call()
    stage.clock.advance(2)
    stage.replicas[1].die()
    stage.clock.advance(1)
    assert not call.over()
    stage.clock.advance(3)
    assert call.result_now() == ("answer", ("x",))
    stage.settle()
    assert stage.counted == [Outcome.OK]


class Refuses(FakeReplica):
    """Refuses every call, as if other processes held its slots."""

    def _send(self, work):
        self._events.refused(work)
        self._events.freed(None)


def test_a_second_attempt_that_its_replica_refuses_is_dropped():
    """If the replica refuses the second attempt, the attempt is dropped and the first one decides."""
    stage = Stage(Act(seconds=5))
    stage.router.close_lane(stage.router.lanes[1])
    open_replica(stage.router, stage.clock, index=2, replica=Refuses)
    call = stage.call()
    stage.clock.advance(4)
    assert not call.over()
    stage.settle()
    assert call.result_now() == ("answer", ("x",))
    assert stage.counted == [Outcome.OK]


def test_the_percentile_is_known_once_twenty_calls_were_answered():
    """A percentile delay applies after twenty answers; before that there is no second attempt."""
    acts = iter([Act(seconds=0.01 * n) for n in range(1, 21)] + [Act(Behaviour.HANG)] * 2)
    stage = Stage(None, hedge=HedgePolicy("p95"))
    stage.replicas[0]._script = lambda _: next(acts)
    for _ in range(20):
        stage.call()
        stage.clock.advance(1)
    assert [index for index, _ in stage.started] == [0] * 20
    stage.call()
    stage.clock.advance(0.185)
    assert len(stage.started) == 21
    stage.clock.advance(0.01)
    assert stage.started[-1][0] == 1
    stage.settle()


def test_calls_that_are_over_are_not_kept_until_their_time():
    """A call that ended before its hedge delay is freed at once, not kept until then."""
    import gc
    import weakref

    stage = Stage(Act(seconds=0.1), hedge=HedgePolicy(1000.0))
    call = stage.call(timeout=1e6)
    stage.clock.advance(1)
    assert call.over()
    gone = weakref.ref(call)
    del call
    gc.collect()
    assert gone() is None
