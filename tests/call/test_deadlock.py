"""
A deadlock among methods that wait for calls is found when it arises, and nothing else is mistaken for one.

Seeds choose the services, their methods and what these do: they call services, their own included, wait for calls or go
on, and end. All runs on real routers with replicas in virtual time.
"""

from __future__ import annotations

from contextvars import copy_context
from math import inf
from random import Random

import pytest

from sage_deploy_testing.doubles.fake_replica import Act, Behaviour, open_replica
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins.call import deadlock
from sage_plugins.call.call import Call
from sage_plugins.call.current import CURRENT
from sage_plugins.errors import ReentrantCallError
from sage_plugins.host.lifecycle import StartHooks
from sage_plugins.routing.method_limits import MethodRouter
from sage_plugins.values import BatchPlan, CallOptions, MethodKind, MethodPlan

WAIT = 1 / 16
METHODS = (
    MethodPlan(0, "any", MethodKind.SYNC, idempotent=False, timeout=inf),
    MethodPlan(1, "one", MethodKind.SYNC, idempotent=False, timeout=inf, max_concurrency=1),
    MethodPlan(
        2,
        "many",
        MethodKind.SYNC,
        idempotent=False,
        timeout=inf,
        batch=BatchPlan("many_at_once", MethodKind.SYNC, 2, WAIT),
    ),
)


class ByKey:
    binding = True

    def picker(self, candidates):
        return lambda key: candidates[key % len(candidates)]


class World:
    """Services whose methods run until the test ends them. `waits` has the calls that methods wait for."""

    def __init__(self, services, *, guarded=True):
        self.clock = VirtualClock()
        self.guarded = guarded
        self.waits = {}  # the call that each running call or batch waits for
        self.refused = []
        self.routers, self.replicas = [], []
        for number, (slots, binding) in enumerate(services):
            router = MethodRouter(
                f"s{number}",
                self.clock,
                queue_size=1000,
                reject=False,
                count=lambda *_: None,
                refused=lambda *_: None,
                balancer=ByKey() if binding else None,
            )
            self.routers.append(router)
            for index in range(2 if binding else 1):
                replica, _ = open_replica(router, self.clock, slots, index=index, script=lambda _: Act(Behaviour.HANG))
                self.replicas.append(replica)

    def call(self, service, method, *, key=0, outer=None):
        """Make a call from within *outer*, and let what can start do so."""
        router, now = self.routers[service], self.clock.monotonic()
        call = Call(router, METHODS[method], (), {}, CallOptions(key=key), now, inf, inf, None)
        call.outer = outer
        router.route(call)
        self.clock.advance(0)
        return call

    def wait(self, waiter, call):
        """From now on the method that runs *waiter* waits for *call*."""
        if call.over():
            return
        self.waits[waiter.batch or waiter] = (waiter, call)
        if self.guarded:
            deadlock.guard(call, waiter)
        self.go_on()

    def go_on(self):
        """Let methods go on whose calls have ended."""
        self.clock.advance(WAIT)
        for work, (waiter, call) in list(self.waits.items()):
            if call.over():
                del self.waits[work]
                if self.guarded:
                    deadlock.went_on(waiter)
                if isinstance(call.exception_now(), ReentrantCallError) and call not in self.refused:
                    self.refused.append(call)

    def busy(self):
        """The work that runs and does not wait, with its replicas."""
        return [(replica, work) for replica in self.replicas for work in replica.running if work not in self.waits]

    def end(self, replica, work):
        replica._end(work, Behaviour.ANSWER)
        self.go_on()

    def finish(self):
        """End all methods that do not wait, until none is left. Return those that would wait forever."""
        self.go_on()
        while busy := self.busy():
            self.end(*busy[0])
        return list(self.waits)

    def close(self):
        """Forget the waits, since no method will go on."""
        for waiter, _ in self.waits.values():
            deadlock.went_on(waiter)


def play(seed, steps, *, guarded=True):
    """Run so many steps, or until a call is refused. Return the world and the number of steps."""
    random = Random(seed)  # noqa: S311 - no secret
    services = [(random.choice((1, 1, 2, 3)), random.random() < 0.3) for _ in range(random.choice((1, 2, 2, 3)))]
    world = World(services, guarded=guarded)
    made = []
    for step in range(steps):
        busy = world.busy()
        choice, dice = random.random(), [random.random() for _ in range(4)]
        service, method, key = int(dice[0] * len(services)), int(dice[1] * len(METHODS)), int(dice[2] * 2)
        if choice < 0.25 or not busy:
            world.call(service, method, key=key)
        else:
            replica, work = busy[int(dice[3] * len(busy))]
            waiter = replica.started[work][0]
            if choice < 0.7:
                call = world.call(service, method, key=key, outer=waiter)
                made.append((waiter, call))
                if choice < 0.55:
                    world.wait(waiter, call)
            elif choice < 0.85 and (own := [call for other, call in made if other is waiter and not call.over()]):
                world.wait(waiter, own[0])
            else:
                world.end(replica, work)
        world.go_on()
        if world.refused:
            return world, step + 1
    return world, steps


def check(seed):
    """Run one seed and return whether a deadlock arose."""
    world, steps = play(seed, 6 + seed % 20)
    try:
        if not world.refused:
            assert world.finish() == [], f"seed {seed}: a deadlock was missed"
            return False
    finally:
        world.close()
    # Repeat it without the guard: a refused call must mean a deadlock.
    unguarded, _ = play(seed, steps, guarded=False)
    assert unguarded.finish() != [], f"seed {seed}: a call was refused and nothing was stuck: {world.refused}"
    return True


@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_deadlocks_are_found_and_nothing_else_is_taken_for_one(first):
    """In a thousand random worlds each deadlock is found, and no call is refused without one."""
    found = sum(check(seed) for seed in range(first, first + 100))
    assert 10 <= found <= 95, "seeds must bring about both"


# -- single cases ------------------------------------------------------------------------------------------------------


@pytest.fixture
def world():
    worlds = []

    def make(*slots):
        worlds.append(World([(each, False) for each in slots]))
        return worlds[0]

    yield make
    worlds[0].close()


def refused(call):
    return call.over() and isinstance(call.exception_now(), ReentrantCallError)


def test_an_outer_call_that_goes_on_is_not_taken_for_one_that_waits(world):
    """An outer call that does not wait makes no deadlock: B.any waits for A's slot, which A.any frees when it ends."""
    world = world(1, 1)
    outer = world.call(0, 0)
    inner = world.call(1, 0, outer=outer)
    back = world.call(0, 0, outer=inner)
    world.wait(inner, back)
    assert not refused(back)
    assert world.finish() == []


def test_a_wait_for_a_call_that_runs_may_close_the_circle(world):
    """A wait for a running call can close the circle: A.any waits for B.any, so B.any's call to A is refused."""
    world = world(1, 1)
    outer = world.call(0, 0)
    inner = world.call(1, 0, outer=outer)
    back = world.call(0, 0, outer=inner)
    world.wait(inner, back)
    world.wait(outer, inner)
    assert refused(back)
    assert world.finish() == []


def test_two_services_that_call_each_other_at_the_same_time_are_told_so(world):
    """If two services with one slot wait for each other, the call that closes the circle is refused."""
    world = world(1, 1)
    first, second = world.call(0, 0), world.call(1, 0)
    to_second, to_first = world.call(1, 0, outer=first), world.call(0, 0, outer=second)
    world.wait(first, to_second)
    assert not refused(to_second)
    world.wait(second, to_first)
    assert refused(to_first)
    assert world.finish() == []


def test_a_method_with_one_turn_that_calls_itself_is_told_so_though_slots_are_free(world):
    """A method with `max_concurrency` 1 that waits for a call of itself is refused, even while slots are free."""
    world = world(3)
    outer = world.call(0, 1)
    inner = world.call(0, 1, outer=outer)
    world.wait(outer, inner)
    assert refused(inner)


def test_a_method_whose_caller_gave_up_is_told_so_too(world):
    """A method waiting for its own service gets the error even if its caller gave up."""
    world = world(1)
    outer = world.call(0, 0)
    outer.abandon()
    inner = world.call(0, 0, outer=outer)
    world.wait(outer, inner)
    assert refused(inner)


def test_a_batch_method_that_calls_its_own_service_is_told_so(world):
    """A batch method that waits for its own service gets the error."""
    world = world(1)
    outer = world.call(0, 2)
    world.go_on()
    inner = world.call(0, 2, outer=outer)
    world.wait(outer, inner)
    assert refused(inner)


def replace(world):
    """Replace the first service's replica by a second one, while calls on the first go on."""
    router = world.routers[0]
    (first,) = router.lanes
    replica, _ = open_replica(router, world.clock, index=1, script=lambda _: Act(Behaviour.HANG))
    world.replicas.append(replica)
    router.close_lane(first)


def test_a_method_on_a_replica_that_leaves_holds_no_slot_that_anybody_could_get(world):
    """A method on a replica that leaves holds no slot: the call it waits for can run on the new replica."""
    world = world(1)
    outer = world.call(0, 0)
    replace(world)
    running = world.call(0, 0)
    inner = world.call(0, 0, outer=outer)
    world.wait(outer, inner)
    assert running.running()
    assert not refused(inner)
    assert world.finish() == []


def test_a_method_on_a_replica_that_leaves_may_be_part_of_a_deadlock_on_the_new_one(world):
    """A method on a replica that leaves can be part of a deadlock on the new one."""
    world = world(1)
    outer = world.call(0, 0)
    replace(world)
    second = world.call(0, 0)
    inner, last = world.call(0, 0, outer=outer), world.call(0, 0, outer=second)
    world.wait(outer, inner)
    world.wait(second, last)
    assert refused(last)
    assert not refused(inner)
    assert world.finish() == []


def test_a_call_that_waits_for_a_service_without_replicas_is_not_refused(world):
    """A call to a service without replicas is not refused, since one may still come."""
    world = world(1)
    outer = world.call(0, 0)
    world.routers[0].close_lane(world.routers[0].lanes[0])
    inner = world.call(0, 0, outer=outer)
    world.wait(outer, inner)
    assert not refused(inner)


def starting(world, service, *others):
    """Return the start hooks of a starting replica of *service*; *others* are starting too."""
    router = world.routers[service]
    for lane in router.lanes:
        router.close_lane(lane)
    lane = router.lane("starting", 9)
    router.coming = lambda: (lane, *others)
    return StartHooks(router.service, world.clock, lane)


def test_start_hooks_that_wait_for_their_own_service_are_told_so(world):
    """Start hooks that wait for their own service get the error, since they hold all slots of their replica."""
    world = world(3)
    hooks = starting(world, 0)
    call = world.call(0, 0, outer=hooks)
    world.wait(hooks, call)
    assert refused(call)


def test_start_hooks_may_wait_for_another_replica_that_starts(world):
    """Start hooks can wait for another replica that starts, unless its hooks wait as well."""
    world = world(1)
    second = world.routers[0].lane("second", 8)
    hooks, others = starting(world, 0, second), StartHooks("s0", world.clock, second)
    first = world.call(0, 0, outer=hooks)
    world.wait(hooks, first)
    assert not refused(first)
    last = world.call(0, 0, outer=others)
    world.wait(others, last)
    assert refused(last)
    assert not refused(first)


def test_start_hooks_of_two_services_that_wait_for_each_other_are_told_so(world):
    """If start hooks of two services wait for each other, the call that closes the circle is refused."""
    world = world(1, 1)
    first, second = starting(world, 0), starting(world, 1)
    to_second, to_first = world.call(1, 0, outer=first), world.call(0, 0, outer=second)
    world.wait(first, to_second)
    assert not refused(to_second)
    world.wait(second, to_first)
    assert refused(to_first)


def test_a_method_may_wait_for_a_replica_that_starts(world):
    """A method can wait for its own service while another replica is starting."""
    world = world(1)
    outer, router = world.call(0, 0), world.routers[0]
    coming = router.lane("starting", 9)
    router.coming = lambda: (coming,)
    inner = world.call(0, 0, outer=outer)
    world.wait(outer, inner)
    assert not refused(inner)


def test_what_start_hooks_have_left_behind_holds_no_slot(world):
    """A task that start hooks left running holds no slot once the replica is ready."""
    world = world(1)
    hooks = starting(world, 0)
    with hooks:
        pass
    inner = world.call(0, 0, outer=hooks)
    world.wait(hooks, inner)
    assert not refused(inner)


@pytest.mark.parametrize("ask", [Call.result, Call.exception])
def test_a_wait_with_a_limit_is_part_of_no_deadlock(world, ask):
    """A wait with a timeout makes no deadlock: it raises TimeoutError. Without a timeout the method gets the error."""
    world = world(1)
    outer = world.call(0, 0)
    inner = world.call(0, 0, outer=outer)
    in_method = copy_context()
    in_method.run(CURRENT.set, outer)
    with pytest.raises(TimeoutError):
        in_method.run(ask, inner, timeout=0)
    assert not inner.over()
    if ask is Call.result:
        with pytest.raises(ReentrantCallError):
            in_method.run(ask, inner)
    else:
        assert isinstance(in_method.run(ask, inner), ReentrantCallError)
    assert refused(inner)
