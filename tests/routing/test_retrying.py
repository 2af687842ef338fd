"""
Retries in virtual time: a router, its guards, and replicas that fail as a seed says.

Rules checked after every step: a call ends once, by its deadline. A call that is not idempotent never starts again.
No call returns to a replica where it failed while another one serves. Each call counts once. Nothing is left over.
"""

from __future__ import annotations

from collections import Counter
from contextvars import copy_context
from math import inf
from random import Random

import pytest

from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins.call.call import Call
from sage_plugins.call.owner import CallOwner
from sage_plugins.config.nested_keys import Policies, RetryPolicy
from sage_plugins.errors import CallError
from sage_plugins.routing.guarding import retrying
from sage_plugins.routing.guarding.guards import Guards
from sage_plugins.routing.guarding.parts import RateLimitedTell
from sage_plugins.routing.guarding.retrying import Retrying
from sage_plugins.routing.router import Router
from sage_plugins.values import CallOptions, MethodKind, MethodPlan, Outcome

ONCE = MethodPlan(0, "once", MethodKind.SYNC, idempotent=False, timeout=inf)
TWICE = MethodPlan(1, "twice", MethodKind.SYNC, idempotent=True, timeout=inf)


class PassingError(Exception):
    """An exception that `retry.on` names."""


class LastingError(Exception):
    """An exception that `retry.on` does not name."""


class Turns:
    """Chooses the replicas in turn."""

    binding = False

    def picker(self, candidates):
        number = iter(range(10**9))
        return lambda _key, _method: candidates[next(number) % len(candidates)]


class Replica:
    """Does its work when the simulation says so, like a worker."""

    node = None
    run_here = None

    def __init__(self, play, index, slots):
        self.id, self.index, self.slots, self.play = f"sim#{index}", index, slots, play
        self.running = []
        self.give_up = lambda *_: False

    def send(self, call):
        if call.expire() or not call.claim():
            self.play.freed(self, call)
            return
        if self.id in self.play.failed[call] and self.play.other_serves(call):
            self.play.broken.append(f"replica: {self.id} got a call again that it had failed, and another serves")
        self.play.starts[call] += 1
        call.began = self.play.clock.monotonic()
        self.running.append(call)

    def end(self, call, error):
        self.running.remove(call)
        play = self.play
        call.ended = play.clock.monotonic()
        if isinstance(error, PassingError):
            play.failed[call].add(self.id)
            play.failed_with[call] = len(play.lanes)
            again = call.owner.failed(call, error)
            if again is not None:
                play.freed(self, call)
                again()
                return
        if call.claim_outcome():
            play.count(call.method.index, Outcome.OK if error is None else Outcome.ERROR, 0.0, 0.0)
            play.freed(self, call)
            call.publish(None, error)
        else:
            call.owner.abandoned_ended(call)
            play.freed(self, call)


class Play:
    """One simulated course of events."""

    def __init__(self, seed):
        self.random = random = Random(seed)  # noqa: S311 - no secret
        self.seed = seed
        self.clock = VirtualClock()
        self.policy = RetryPolicy(
            max_attempts=random.randint(1, 4),
            backoff=random.choice([0.0, 0.025, 0.3]),
            budget=random.choice([0.0, 0.2, 1.0]),
            min=random.choice([0, 3, 100]),
            on=("PassingError",),
        )
        self.counted = Counter()
        self.starts = Counter()
        self.failed = {}
        self.failed_with = {}  # for each call: how many replicas there had been when its latest attempt ended
        self.broken = []
        self.calls = []
        self.told = []
        self.router = Router(
            "sim",
            self.clock,
            queue_size=1000,
            reject=False,
            guards=Guards(
                Policies(self.policy), lambda kind, reason, _: self.told.append((kind, reason)), random=random
            ),
            count=self.count,
            refused=lambda *_: None,
            balancer=random.choice([None, Turns()]),
            aside=lambda do: do(),
        )
        self.lanes = {}
        self.replicas = []
        for _ in range(random.randint(1, 3)):
            self.open()

    def count(self, _method, outcome, _wait, _run):
        self.counted[outcome] += 1

    def open(self):
        replica = Replica(self, len(self.lanes), self.random.randint(1, 2))
        lane = self.lanes[replica.id] = self.router.lane(replica.id, replica.index)
        self.replicas.append(replica)
        self.router.open(lane, replica)

    def freed(self, replica, call):
        self.lanes[replica.id].freed(call)

    def other_serves(self, call):
        """Return whether a replica where *call* has not failed serves, and has served since its last attempt ended."""
        others = any(lane.id not in self.failed[call] for lane in self.router._lanes.serving)
        return others and self.failed_with.get(call) == len(self.lanes)

    # -- what happens ------------------------------------------------------------------------------------------------

    def make_call(self):
        now = self.clock.monotonic()
        method = self.random.choice([ONCE, TWICE, TWICE])
        deadline = now + self.random.choice([inf, 0.5, 5.0])
        call = Call(self.router, method, (), {}, CallOptions(), now, deadline, deadline, copy_context())
        self.failed[call] = set()
        self.calls.append(call)
        call.add_done_callback(lambda each: self.ends.update([each]))
        self.router.route(call)

    def end_call(self):
        busy = [replica for replica in self.replicas if replica.running]
        if busy:
            replica = self.random.choice(busy)
            error = self.random.choice([None, PassingError(), PassingError(), LastingError()])
            replica.end(self.random.choice(replica.running), error)

    def kill(self):
        if len(self.replicas) > 1 or self.random.random() < 0.5:
            replica = self.random.choice(self.replicas)
            self.replicas.remove(replica)
            for call in replica.running:
                self.failed[call].add(replica.id)
                self.failed_with.pop(call, None)  # the first replica with a free slot gets it
            self.router.lost(self.lanes[replica.id], [], replica.running, ConnectionError("killed"))
            self.open()

    def pass_time(self):
        self.clock.advance(self.random.choice([0.001, 0.02, 0.3, 2.0]))

    def cancel(self):
        if self.calls:
            self.random.choice(self.calls[-20:]).abandon()

    def run(self):
        self.ends = Counter()
        acts = [self.make_call] * 4 + [self.end_call] * 6 + [self.pass_time] * 2 + [self.kill, self.cancel]
        for _ in range(200):
            self.random.choice(acts)()
            self.look()
        idle = []
        self.router.drain("ends", lambda: idle.append(True))
        for _ in range(3000):
            if idle:
                break
            self.clock.advance(0.1)
            for replica in self.replicas:
                for call in tuple(replica.running):
                    replica.end(call, None)
        self.router.end()
        self.look()
        self.check(bool(idle), "idle: the service does not come to an end")
        for call in self.calls:
            self.check(call.over(), "outcome: a call has none")
            self.check(self.ends[call] == 1, "outcome: a call ended more than once")
        self.check(sum(self.counted.values()) == len(self.calls), f"count: {self.counted} of {len(self.calls)} calls")
        self.check(self.router._queue.returning == 0, "returning: a call is thought to be on its way")

    def look(self):
        now = self.clock.monotonic()
        for call in self.calls:
            most = self.policy.max_attempts if call.method is TWICE else 1
            self.check(self.starts[call] <= most, f"starts: {self.starts[call]} of at most {most}")
            self.check(call.over() or now < call.deadline + 0.001 or call.done(), "deadline: a call outlives its own")
        self.check(not self.broken, str(self.broken))

    def check(self, holds, why):
        if not holds:
            raise AssertionError(f"seed {self.seed}: {why}")


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_rules_hold_whatever_fails(first):
    """Whatever fails, the rules of this module hold."""
    for seed in range(first, first + 50):
        Play(seed).run()


def test_decisions_are_told_with_their_numbers():
    """The events about retries say how many retries the budget allows, and which exception caused them."""
    play = Play(3)
    play.run()
    assert {kind.value for kind, _ in play.told} <= {"retried", "retry_refused"}
    assert any(kind == "retried" and "allowed" in reason for kind, reason in play.told)
    assert any("twice raised PassingError: " in reason for _, reason in play.told)


def test_what_is_decided_often_is_told_with_the_number_left_out():
    """At most one event of a kind is reported per second. The next one says how many were left out."""
    told, clock = [], VirtualClock()
    rarely = RateLimitedTell(clock, lambda kind, reason, _: told.append((kind, reason)))
    for reason in ("first", "second", "third"):
        rarely("retried", reason)
    rarely("retry_refused", "refused")
    for reason in ("fourth", "fifth"):
        clock.advance(1.0)
        rarely("retried", reason)
    assert told == [
        ("retried", "first"),
        ("retry_refused", "refused"),
        ("retried", "fourth; 2 more since the last of these events"),
        ("retried", "fifth"),
    ]


class Failing:
    """Each of its calls fails at once."""

    slots, node, run_here = 1, None, None

    def __init__(self, index=0):
        self.id, self.index = f"sim#{index}", index
        self.starts = 0

    def give_up(self, *_):
        return False

    def send(self, call):
        self.starts += 1
        call.claim()
        call.began = call.ended = call.owner.clock.monotonic()
        again = call.owner.failed(call, PassingError())
        if again is None:
            call.claim_outcome()
            call.publish(None, PassingError())
            call.lane.freed(call)
        else:
            call.lane.freed(call)
            again()


class Hanging(Failing):
    """Its calls never end."""

    def send(self, call):
        self.starts += 1
        call.claim()
        call.began = call.owner.clock.monotonic()


def guarded_router(clock, most):
    policy = RetryPolicy(max_attempts=most, backoff=0.1, budget=1.0, min=100, on=("PassingError",))
    guards = Guards(Policies(policy), lambda *_: None, random=Random(1))  # noqa: S311 - no secret
    settings = {"queue_size": 9, "reject": False, "count": lambda *_: None, "refused": lambda *_: None}
    return Router("sim", clock, guards=guards, balancer=Turns(), **settings)


def routed(router):
    call = Call(router, TWICE, (), {}, CallOptions(), 0.0, inf, inf, copy_context())
    router.route(call)
    return call


def test_a_call_runs_where_it_failed_once_no_other_replica_is_left():
    """A call returns to a replica where it failed only once no other is left; until then it waits for another."""
    clock, busy, failing = VirtualClock(), Hanging(), Failing(1)
    router = guarded_router(clock, 3)
    lane = router.lane(busy.id, 0)
    router.open(lane, busy)
    routed(router)
    router.open(router.lane(failing.id, 1), failing)
    call = routed(router)
    clock.advance(100)
    assert (call.over(), busy.starts, failing.starts) == (False, 1, 1)
    router.close_lane(lane)
    clock.advance(100)
    assert isinstance(call.exception_now(), PassingError)
    assert (busy.starts, failing.starts) == (1, 3)


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_a_call_that_always_fails_is_started_as_often_as_it_may_be(most):
    """A call that always fails starts `max_attempts` times, then raises the error of its last attempt."""
    clock, replica = VirtualClock(), Failing()
    router = guarded_router(clock, most)
    router.open(router.lane(replica.id, 0), replica)
    call = routed(router)
    clock.advance(100)
    assert isinstance(call.exception_now(), PassingError)
    assert replica.starts == most


def tries_all(patch):
    patch.setattr(retrying, "may_run_twice", lambda _: True)


def tries_anywhere(patch):
    patch.setattr(Retrying, "_others", lambda *_: [])


def forgets_a_call(patch):
    patch.setattr(Retrying, "_due", lambda *_: None)


def counts_no_failure(patch):
    arrived = Retrying._arrived
    patch.setattr(Retrying, "_arrived", lambda self, call: None if call.tried else arrived(self, call))


def keeps_who_is_over(patch):
    patch.setattr(Retrying, "_is_over", lambda *_: None)
    patch.setattr(Retrying, "_take", lambda self, lane: self._elsewhere.popleft() if self._elsewhere else None)


def tries_for_ever(patch):
    failed = Retrying.failed

    def faulty(self, call, error):
        call.attempts = 0
        return failed(self, call, error)

    patch.setattr(Retrying, "failed", faulty)


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        (tries_all, "starts"),
        (tries_anywhere, "replica"),
        (forgets_a_call, "idle|outcome|deadline"),
        (counts_no_failure, "idle|returning"),
        (keeps_who_is_over, "."),
        (tries_for_ever, "starts"),
    ],
)
def test_fault_is_found(monkeypatch, fault, word):
    """A few seeds find each fault planted in the router."""
    fault(monkeypatch)

    def play_some():
        for seed in range(200):
            Play(seed).run()

    with pytest.raises((AssertionError, CallError), match=word):
        play_some()


def test_owner_without_guards_takes_nothing_back():
    """An owner without guards, such as a plain router, retries no failed call."""
    assert CallOwner().failed(None, PassingError()) is None
    router = Router("sim", VirtualClock(), queue_size=1, reject=False, count=None, refused=None)
    assert router.failed(None, PassingError()) is None
