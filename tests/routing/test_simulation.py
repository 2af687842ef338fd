"""
The router in virtual time: a thousand random courses of events, one for each seed, and single rules by name.

To repeat a seed that failed:

    SAGE_SIM_SEED=123 pytest tests/routing/test_simulation.py

For a seed of the simulation with limits use SAGE_SIM_LIMITED_SEED.
`SAGE_SIM_SEEDS=100000 pytest tests/routing/test_simulation.py` runs more seeds.
"""

from __future__ import annotations

import os
from collections import Counter
from contextvars import copy_context
from math import inf

import pytest

from sage_deploy_testing.doubles.bundling_replica import BundlingReplica
from sage_deploy_testing.doubles.fake_replica import Act, Behaviour, FakeReplica, open_replica
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_deploy_testing.simulation.simulation import Setting, Simulation, SimulationFailure
from sage_deploy_testing.simulation.simulation_rules import UNBOUNDED
from sage_plugins.call.call import Call
from sage_plugins.call.current import CURRENT
from sage_plugins.config.nested_keys import Policies
from sage_plugins.errors import (
    CallCancelledError,
    CallTimeoutError,
    InvalidKeyError,
    NoReplicaError,
    OverloadedError,
    ReentrantCallError,
    ReplicaDiedError,
    ServiceStoppedError,
)
from sage_plugins.routing.guarding.guards import Guards
from sage_plugins.routing.method_limits import MethodRouter
from sage_plugins.routing.router import Router
from sage_plugins.values import CallOptions, MethodKind, MethodPlan, Outcome

CHUNK = 50
SEEDS = int(os.environ.get("SAGE_SIM_SEEDS", "1000"))
ONE_SEED = os.environ.get("SAGE_SIM_SEED")
ONE_LIMITED_SEED = os.environ.get("SAGE_SIM_LIMITED_SEED")
LIMITED = {"router": MethodRouter, "limits": True}
BUNDLED = {"replica": BundlingReplica}


def play(seed, **parts):
    """Return the report of one seed. A failure says how to repeat it."""
    try:
        return Simulation(seed, **parts).run()
    except SimulationFailure as error:
        failure = error
    # Fail outside the handler: inside, pytest would add three tracebacks that say nothing new.
    variable = "SAGE_SIM_LIMITED_SEED" if parts.get("limits") else "SAGE_SIM_SEED"
    again = f"{variable}={seed} pytest tests/routing/test_simulation.py"
    pytest.fail(f"{failure}\nplay it again: {again}", pytrace=False)


if ONE_SEED is not None:

    def test_the_one_seed_asked_for():
        """The router keeps its rules with the seed that SAGE_SIM_SEED names."""
        play(int(ONE_SEED))

elif ONE_LIMITED_SEED is not None:

    def test_the_one_seed_with_limits_asked_for():
        """The router keeps its rules with the seed that SAGE_SIM_LIMITED_SEED names."""
        play(int(ONE_LIMITED_SEED), **LIMITED)

else:

    @pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
    def test_seeds_keep_the_rules(first):
        """Whatever callers and replicas do, the router keeps the rules of `simulation_rules`."""
        for seed in range(first, min(first + CHUNK, SEEDS)):
            play(seed)

    @pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
    def test_seeds_with_limits_and_batches_keep_the_rules(first):
        """The rules hold when methods have concurrency limits or are answered in batches."""
        for seed in range(first, min(first + CHUNK, SEEDS)):
            play(seed, **LIMITED)

    @pytest.mark.parametrize("first", range(0, SEEDS // 4, CHUNK))
    def test_a_method_router_without_limits_keeps_the_rules_of_a_plain_one(first):
        """A `MethodRouter` without limits keeps the rules of a plain router."""
        for seed in range(first, min(first + CHUNK, SEEDS // 4)):
            play(seed, router=MethodRouter)

    @pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
    def test_seeds_with_calls_sent_ahead_keep_the_rules(first):
        """The rules hold when replicas in other processes are sent calls ahead."""
        for seed in range(first, min(first + CHUNK, SEEDS)):
            play(seed, **BUNDLED)

    @pytest.mark.parametrize("first", range(0, SEEDS // 4, CHUNK))
    def test_seeds_with_limits_and_calls_sent_ahead_keep_the_rules(first):
        """The rules hold with method limits, batches and calls sent ahead together."""
        for seed in range(first, min(first + CHUNK, SEEDS // 4)):
            play(seed, **LIMITED, **BUNDLED)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "parts", [{}, LIMITED, BUNDLED, LIMITED | BUNDLED], ids=["plain", "limited", "ahead", "limited, ahead"]
    )
    @pytest.mark.parametrize("first", range(100_000, 120_000, 1000))
    def test_many_seeds_keep_the_rules(first, parts):
        """The rules hold for many more seeds, with and without limits, batches and calls sent ahead."""
        for seed in range(first, first + 1000):
            play(seed, **parts)


def test_seeds_bring_about_what_they_are_to_try():
    """A hundred seeds meet every outcome, behaviour and step often. Otherwise the rules would prove little."""
    outcomes, behaviours, steps, calls, refused = Counter(), Counter(), Counter(), 0, 0
    for seed in range(100):
        report = play(seed)
        outcomes += report.outcomes
        behaviours += report.behaviours
        steps += report.steps
        calls += report.calls
        refused += report.refused
    assert set(outcomes) == set(range(len(Outcome.NAMES)))
    assert set(behaviours) == set(Behaviour)
    assert min(outcomes.values()) >= 10
    assert min(behaviours.values()) >= 5
    assert min(steps.values()) >= 5
    assert refused >= calls / 20
    assert outcomes[Outcome.OK] >= calls / 10


def test_seeds_with_limits_bring_about_batches_of_every_size():
    """The seeds with limits meet every behaviour and batches of every size."""
    behaviours, batches = Counter(), Counter()
    for seed in range(100):
        report = play(seed, **LIMITED)
        behaviours += report.behaviours
        batches += report.batches
    assert set(behaviours) == set(Behaviour)
    assert set(batches) == {1, 2, 3, 4, 5}
    assert min(batches[size] for size in (1, 2, 3)) >= 10


def test_seeds_bring_about_calls_that_are_sent_ahead_and_come_back():
    """The seeds send calls ahead, and some of these calls return."""
    reports = [play(seed, **BUNDLED) for seed in range(200)]
    assert sum(report.sent_ahead for report in reports) >= 100
    assert sum(report.returned for report in reports) >= 20


class LosesSlots(FakeReplica):
    def free(self, call):
        pass


def test_a_failure_says_how_to_play_it_again():
    """The message of a failure says how to repeat it."""
    with pytest.raises(pytest.fail.Exception) as caught:
        play(7, replica=LosesSlots)
    assert "seed 7: " in str(caught.value)
    assert "last steps:" in str(caught.value)
    assert str(caught.value).endswith("SAGE_SIM_SEED=7 pytest tests/routing/test_simulation.py")


def test_a_seed_gives_the_same_course_of_events_every_time():
    """The same seed gives the same course of events every time."""
    assert play(7) == play(7)
    assert play(7) != play(8)


def test_a_setting_may_be_given_instead_of_drawn():
    """A simulation can run with a given setting in place of a random one."""
    setting = Setting(
        queue_size=3,
        reject=True,
        retry_lost=False,
        balancer="least",
        slots=(2, 2),
        in_callers_thread=False,
        steps=100,
        dies=0.0,
    )
    report = Simulation(1, setting=setting).run()
    assert sum(report.steps.values()) == 100
    assert report.outcomes[Outcome.DIED] == 0 or report.steps["kill"]


# -- single rules ------------------------------------------------------------------------------------------------------

ONCE = MethodPlan(0, "once", MethodKind.SYNC, idempotent=False, timeout=inf)
TWICE = MethodPlan(1, "twice", MethodKind.SYNC, idempotent=True, timeout=inf)


class Stage:
    """A router with fake replicas, whose methods hang by default."""

    def __init__(self, **settings):
        self.clock = VirtualClock()
        self.counted = []
        self.refused = []
        self.balancer_errors = []
        self.started = []
        self.router = Router(
            "kv",
            self.clock,
            aside=lambda do: do(),
            **{"queue_size": 10, "reject": False} | settings,
            count=lambda _method, outcome, _wait_s, _run_s: self.counted.append(outcome),
            refused=lambda _method, reason: self.refused.append(reason),
            on_balancer_error=self.balancer_errors.append,
        )

    def open(self, slots=1, *, index=0, behaviour=Behaviour.HANG, seconds=0.0):
        replica, lane = open_replica(
            self.router,
            self.clock,
            slots,
            index=index,
            script=lambda _: Act(behaviour, seconds),
            started=lambda call: self.started.append((index, call.args[0])),
        )
        replica.lane = lane
        return replica

    def call(self, name, *, timeout=inf, queue_timeout=inf, key=None, method=ONCE):
        """Route a call, and let what can start do so."""
        now = self.clock.monotonic()
        expires = min(now + timeout, now + queue_timeout)
        call = Call(self.router, method, (name,), {}, CallOptions(key=key), now, now + timeout, expires, None)
        self.router.route(call)
        self.clock.advance(0)
        return call

    @property
    def names(self):
        """The names of the started calls, in order."""
        return [name for _, name in self.started]


def end_of(call):
    """Return the error with which the call ended, without waiting."""
    assert call.over()
    return call.exception_now()


def answer_of(call):
    """Return the result of the call, without waiting."""
    assert call.over()
    return call.result()


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


class Turns:
    binding = False

    def picker(self, candidates):
        turn = iter(list(candidates) * 1000)
        return lambda _key, _method: next(turn)


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


class ByKey:
    binding = True

    def picker(self, candidates):
        return lambda key, _method: candidates[key % len(candidates)]


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


def test_without_a_balancer_the_replica_that_came_last_stands_by():
    """Without a balancer the replica with the highest `seniority` number is the standby, whatever its index."""
    stage = Stage()
    stage.open(index=1)
    replica, lane = FakeReplica(None, stage.clock, 1), stage.router.lane("kv#0.1", 0, seniority=1)
    stage.router.open(lane, replica)
    stage.call("a")
    assert stage.started == [(1, "a")]


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
