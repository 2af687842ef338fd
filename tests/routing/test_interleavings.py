"""
The router keeps all its rules, whatever one thread does between any two steps of another.

The router and its calls use few locks. So a thread can be interrupted anywhere, and the state can change meanwhile.
This test tries every such moment, one by one, in a single thread:

- Python calls a trace function (`sys.settrace` with `f_trace_opcodes`) at each step of the interpreter.
- Before the n-th step of the first operation, the trace function runs the whole second operation. Only steps in the
  code of routers, calls and batches count.
- Then the first operation goes on, the world runs to its end, and the rules are checked.
- This is repeated in a new world for n = 1, 2, 3 ... until the first operation has no n-th step.

`Turnstile`s replace the locks. If the second operation would have to wait for a lock that the first holds, the step is
skipped: a second thread could not run there either.

The riskiest pairs of operations always run. `make test-long` runs all pairs in every setting. A failure names
setting, operations and step. To repeat it:

    SAGE_INTERLEAVING="one slot: route / answer / 17" pytest tests/routing/test_interleavings.py
"""

from __future__ import annotations

import dis
import linecache
import os
import re
import signal
import sys
import threading
from collections import Counter
from concurrent.futures import wait
from itertools import count, cycle
from math import inf
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest

import sage_plugins.call.batch
import sage_plugins.call.call
import sage_plugins.call.lazy_future
import sage_plugins.routing.draining
import sage_plugins.routing.lane
import sage_plugins.routing.losses
import sage_plugins.routing.method_limits
import sage_plugins.routing.prefetch
import sage_plugins.routing.queue
import sage_plugins.routing.router
import sage_plugins.routing.slot_recovery.inventory
import sage_plugins.routing.slot_recovery.recovery
from sage_deploy_testing.doubles.bundling_replica import PATIENCE_S, BundlingReplica
from sage_deploy_testing.doubles.fake_replica import Act, Behaviour
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_deploy_testing.simulation.simulation_rules import UNBOUNDED
from sage_plugins.call.call import Call
from sage_plugins.config.nested_keys import Policies
from sage_plugins.errors import NoReplicaError, OverloadedError, ServiceStoppedError
from sage_plugins.routing.guarding.guards import Guards
from sage_plugins.routing.method_limits import MethodRouter
from sage_plugins.routing.router import Router
from sage_plugins.values import BatchPlan, CallOptions, MethodKind, MethodPlan

ONE = os.environ.get("SAGE_INTERLEAVING")

ONCE = MethodPlan(0, "once", MethodKind.SYNC, idempotent=False, timeout=inf)
TWICE = MethodPlan(1, "twice", MethodKind.SYNC, idempotent=True, timeout=inf)

#: How many seconds a batch waits for more calls.
WAIT = 1 / 64

ONE_AT_A_TIME = (ONCE._replace(max_concurrency=1), TWICE._replace(max_concurrency=1))
ONE_LIMITED = (ONCE._replace(max_concurrency=1), TWICE)
BATCHED = (
    ONCE._replace(batch=BatchPlan("once_many", MethodKind.SYNC, 3, WAIT)),
    TWICE._replace(batch=BatchPlan("twice_many", MethodKind.SYNC, 2, WAIT), max_concurrency=1),
)
ONE_BATCHED = (ONCE, BATCHED[1])

ALL_TWICE = (TWICE._replace(index=0, name="also twice"), TWICE)

#: A call's timeout in seconds.
TIMEOUT = 10

#: More steps than any operation has.
NEVER = 1_000_000

#: Seconds of processor time after which an operation counts as an endless loop.
PATIENCE = 1.0


# -- settings ----------------------------------------------------------------------------------------------------------


class InTurn:
    binding = False

    def picker(self, candidates):
        turn = cycle(candidates)
        return lambda _key, _method: next(turn)


class ByKey:
    binding = True

    def picker(self, candidates):
        return lambda key, _method: candidates[key % len(candidates)]


class ToFirst:
    binding = True

    def picker(self, candidates):
        return lambda _key, _method: candidates[0]


class Setting(NamedTuple):
    """A service and its first calls: one for each slot, and *waiting* more."""

    queue_size: int
    reject: bool = False
    balancer: type | None = None
    replicas: int = 1
    slots: int = 1
    in_callers_thread: bool = False
    waiting: int = 2
    keys: bool = True  # whether calls have keys
    started: bool = True  # whether the replicas have started the calls sent to them
    methods: tuple[MethodPlan, ...] = (ONCE, TWICE)
    ahead: int = 0  # how many calls may be sent ahead with another


SETTINGS = {
    "one slot": Setting(5),
    "two slots": Setting(5, slots=2),
    "with a standby": Setting(5, replicas=2),
    "nothing waits": Setting(1, slots=2, waiting=0),
    "a slot is free": Setting(1, slots=2, waiting=-1),
    "narrow queue": Setting(1),
    "sent": Setting(1, started=False),
    "in turn": Setting(5, balancer=InTurn, replicas=2),
    "in turn, refusing": Setting(1, reject=True, balancer=InTurn, replicas=2),
    "in turn, no queue": Setting(0, balancer=InTurn, replicas=2),
    "by key": Setting(3, balancer=ByKey, replicas=2),
    "by key, nothing waits": Setting(3, balancer=ByKey, replicas=2, waiting=0),
    "for the first": Setting(3, balancer=ToFirst, replicas=2, waiting=0),
    "bound, without keys": Setting(3, balancer=ToFirst, replicas=2, keys=False),
    "turns, bound, without keys": Setting(3, balancer=ToFirst, replicas=2, keys=False, methods=ONE_LIMITED),
    "turns": Setting(5, slots=2, methods=ONE_LIMITED),
    "turns, narrow queue": Setting(1, slots=3, waiting=1, methods=ONE_AT_A_TIME),
    "turns, two replicas": Setting(5, balancer=InTurn, replicas=2, methods=ONE_AT_A_TIME),
    "turns, inline": Setting(2, in_callers_thread=True, methods=ONE_AT_A_TIME),
    "a batch is open": Setting(5, slots=3, waiting=-1, methods=BATCHED),
    "batches wait": Setting(5, waiting=5, methods=BATCHED),
    "batches, narrow queue": Setting(1, slots=2, waiting=2, methods=ONE_BATCHED),
    "batches, two replicas": Setting(5, balancer=InTurn, replicas=2, waiting=3, methods=ONE_BATCHED),
    "batches, by key": Setting(3, balancer=ByKey, replicas=2, waiting=2, methods=BATCHED),
    "inline": Setting(2, in_callers_thread=True),
    "ahead": Setting(5, waiting=4, methods=ALL_TWICE, ahead=3),
    "ahead, sent": Setting(5, waiting=4, started=False, methods=ALL_TWICE, ahead=3),
    "ahead, mixed": Setting(5, slots=2, waiting=5, ahead=2),
    "ahead, narrow queue": Setting(2, waiting=5, methods=ALL_TWICE, ahead=2),
    "ahead, two replicas": Setting(5, balancer=InTurn, replicas=2, waiting=5, methods=ALL_TWICE, ahead=2),
    "ahead, bound, without keys": Setting(
        5, balancer=ToFirst, replicas=2, keys=False, waiting=5, methods=ALL_TWICE, ahead=2
    ),
    "ahead, turns": Setting(5, slots=2, waiting=5, methods=ONE_LIMITED, ahead=2),
    "inline, no queue": Setting(0, balancer=InTurn, replicas=2, in_callers_thread=True),
}


# -- one world, and what may be done in it -----------------------------------------------------------------------------


class BrokenRuleError(AssertionError):
    pass


class WatchedCall(Call):
    """A call that counts how often it ends."""

    ends = 0
    callbacks_asked = 0
    callbacks_run = 0

    def publish(self, *outcome):
        self.ends += 1
        super().publish(*outcome)


class Replica(BundlingReplica):
    """A replica that can die while it starts a call. It then reports that call as well."""

    def __init__(self, router, lane, clock, **settings):
        self.lane, self._router = lane, router
        self.follow, self.ahead, self.returned = lane.follow, lane.ahead, lane.returned
        super().__init__(self, clock, id=lane.id, index=lane.index, **settings)
        router.open(lane, self)

    def lost(self, *what):
        self._router.lost(self.lane, *what)

    def answer_one(self):
        works = [work for work in self.running if work is not self.starting and self.started[work]]
        if self.alive and works:
            self._end(works[0], Behaviour.ANSWER)

    def _start(self, work, calls, act):
        super()._start(work, calls, act)
        if self._reported:
            self._clock.call_at(self._clock.monotonic(), self._report)


OPERATIONS = {}


def operation(function):
    OPERATIONS[function.__name__.replace("_", " ")] = function
    return function


class World:
    """A router with its replicas, whose methods run until the test answers them."""

    def __init__(self, setting, router):
        self.setting = setting
        self.clock = VirtualClock()
        self.counted = 0
        self.starts = Counter()
        self.accepted, self.refused = [], []
        self.draining = self.said_to_be_idle = self.idle_too_soon = False
        self.closed_to_outsiders = self.seen_idle = False
        self.leaving = self.may_go = 0
        if router is Router and setting.methods not in ((ONCE, TWICE), ALL_TWICE):
            router = MethodRouter
        self.router = router(
            "kv",
            self.clock,
            aside=lambda do: do(),
            queue_size=setting.queue_size,
            reject=setting.reject,
            guards=Guards(Policies(UNBOUNDED)),
            count=self.count,
            refused=lambda _method, _reason: None,
            balancer=setting.balancer and setting.balancer(),
        )
        self.router._lock = self.router._lanes.lock = Turnstile()
        self.replicas = []
        for _ in range(setting.replicas):
            self.open()
        for _ in range(setting.replicas * setting.slots + setting.waiting):
            self.route()
        if setting.started:
            self.start()

    def count(self, _method, _outcome, _wait_s, _run_s):
        self.counted += 1

    def said_idle(self):
        self.said_to_be_idle = True
        self.check_idle()

    def check_idle(self):
        self.idle_too_soon |= not all(call.settled() for call in self.accepted)

    def look(self):
        if self.router.idle:
            self.seen_idle = True
            self.check_idle()

    def first(self, *, started):
        """Return the oldest call that has (or has not) started; None if there is none."""
        calls = (call for call in self.accepted if not call.settled() and call.unstarted() is not started)
        return next(calls, None)

    def watch(self, call):
        def told(_):
            call.callbacks_run += 1

        call.callbacks_asked += 1
        call.add_done_callback(told)

    # Callers

    @operation
    def route(self):
        number, now = len(self.accepted) + len(self.refused), self.clock.monotonic()
        method, options = self.setting.methods[number % 2], CallOptions(key=number if self.setting.keys else None)
        call = WatchedCall(self.router, method, (number,), {}, options, now, now + TIMEOUT, now + TIMEOUT, None)
        try:
            self.router.route(call)
        except (OverloadedError, ServiceStoppedError, NoReplicaError):
            self.refused.append(call)
        else:
            self.accepted.append(call)

    @operation
    def cancel(self):
        if call := self.first(started=False):
            call.cancel()

    @operation
    def give_up_waiting(self):
        if call := self.first(started=False):
            call.abandon()
            self.take_turns(call)

    @operation
    def give_up_running(self):
        if call := self.first(started=True):
            call.abandon()

    @operation
    def expire(self):
        self.clock.advance(TIMEOUT)
        for call in tuple(self.accepted):
            call.expire()
        self.take_turns()

    @operation
    def watch_running(self):
        self.watch(self.accepted[0])

    @operation
    def watch_waiting(self):
        self.watch(self.accepted[-1])

    @operation
    def wait(self):
        wait(self.accepted[:1], timeout=0)

    @operation
    def suspect(self):
        """The router looks for lost slots. None is lost, but many may be in use."""
        for call in self.accepted:
            self.router.suspect_loss_of(call)
        self.router._recovery.look()

    @operation
    def take_turns(self, *calls):
        """With calls in their callers' threads: each caller that was given a slot uses it, as in `Call.hold`."""
        for call in calls or tuple(self.accepted):
            if call.take_grant():
                call.lane.run_here(call)

    # Replicas

    @operation
    def start(self):
        """Workers take up the calls that were sent to them."""
        self.clock.advance(0)

    @operation
    def gather(self):
        """Batches stop waiting for more calls."""
        self.clock.advance(WAIT)

    @operation
    def give_back(self):
        """Replicas give back the calls that were sent ahead and have not started."""
        self.clock.advance(PATIENCE_S)

    @operation
    def answer(self):
        self.replicas[0].answer_one()

    @operation
    def die(self):
        """The first replica dies, and the router notices at once."""
        replica = self.replicas[0]
        if replica.alive:
            replica.alive = False
            replica._report()

    @operation
    def open(self):
        index = len(self.replicas)
        lane = self.router.lane(f"kv#{index}", index)
        replica = Replica(
            self.router,
            lane,
            self.clock,
            slots=self.setting.slots,
            script=lambda _: Act(Behaviour.HANG),
            record=self.count,
            started=lambda call: self.starts.update((call,)),
            in_callers_thread=self.setting.in_callers_thread,
            largest=1 + self.setting.ahead,
        )
        self.replicas.append(replica)

    @operation
    def close(self):
        self.router.close_lane(self.replicas[0].lane)

    @operation
    def retire(self):
        """The first replica leaves, and stops once the router says that it may."""
        replica = self.replicas[0]

        def may_go():
            self.may_go += 1
            replica.begin_stop()

        self.leaving += 1
        self.router.retire({replica.lane: may_go})

    @operation
    def replace(self):
        self.open()
        self.retire()

    @operation
    def avoid(self):
        self.router.avoid(self.replicas[0].lane, avoided=True)

    @operation
    def change_balancer(self):
        self.router.set_balancer(InTurn() if self.router._lanes.binding else ByKey())

    @operation
    def find_no_replica(self):
        self.router.unavailable(lambda: NoReplicaError("none starts"))

    # The end of the service

    @operation
    def close_to_outsiders(self):
        self.closed_to_outsiders = True
        self.router.close_to_outsiders("stops", self.look)
        self.look()

    @operation
    def drain(self):
        if not self.draining:
            self.draining = True
            self.router.drain("stops", self.said_idle)

    @operation
    def ask_whether_idle(self):
        if self.router.idle:
            self.check_idle()

    # How a world ends

    def settle(self):
        """Let everyone finish the work at hand, without new events. Then nothing is in transit."""
        self.take_turns()
        self.clock.advance(0)
        self.take_turns()

    def finish(self):
        """Drain the service and let every call that can run end."""
        self.drain()
        for _ in range(2 * len(self.accepted)):
            self.settle()
            self.gather()
            for replica in self.replicas:
                replica.answer_one()
        self.settle()


# -- the rules ---------------------------------------------------------------------------------------------------------
#
# Each rule yields what is wrong, as text.


def no_more_wait_than_there_is_room_for(world):
    if world.router.waiting > world.setting.queue_size:
        yield f"{world.router.waiting} calls wait and queue_size is {world.setting.queue_size}"


def none_waits_beside_a_free_slot(world):
    limited = isinstance(world.router, MethodRouter)
    for lane in world.router._lanes.serving:
        lanes = [other for other in world.router._lanes.serving if other is lane or not world.setting.keys]
        waiting = [call for other in lanes for call in other.backlog]
        waits = sum(not limited or world.router._has_turn(call, lane) for call in waiting)
        if waits and lane.free:
            yield f"{waits} calls wait and {lane} has a free slot"


def every_turn_is_counted(world):
    if isinstance(world.router, MethodRouter):
        for replica in (replica for replica in world.replicas if replica.alive):
            works = [*replica.inbox, *replica.running, *replica.lane.methods.open.values()]
            works += [call for call in world.accepted if "granted" in call.__dict__ and call.lane is replica.lane]
            for method in world.setting.methods:
                most, turns = method.max_concurrency, sum(work.method is method for work in works)
                counted = replica.lane.methods.running.get(method.index, 0)
                if most is not None and (turns != counted or turns > most):
                    yield f"{turns} of {method.name} run on {replica.lane}, {counted} are counted, {most} may"


def a_batch_waits_for_others_where_one_replica_may_get_them(world):
    if isinstance(world.router, MethodRouter):
        for replica in world.replicas:
            if replica.lane.methods.open and replica.lane not in world.router.lanes:
                yield f"{replica.lane} is closed, and a batch there waits for others to join it"


def none_is_held_back_while_there_is_room(world):
    if world.router.parked and world.router._queue.room:
        yield f"{world.router.parked} calls are parked and there is room"


def what_was_accepted_is_served(world):
    if any(replica.alive and replica.lane in world.router.lanes for replica in world.replicas):
        for call in world.accepted:
            if not call.over():
                yield f"call {call.args[0]} waits for ever, and there is a replica"


def idle_is_said_when_it_is_so(world):
    if world.idle_too_soon:
        yield "the service was said to be idle while an accepted call had no outcome"
    if not world.said_to_be_idle:
        yield "who drains the service was not told that it is idle"
    if world.closed_to_outsiders and not world.seen_idle:
        yield "who closed the service to outsiders was not told that it is idle"


def who_leaves_is_told_once_that_it_may(world):
    if world.may_go != world.leaving:
        yield f"{world.leaving} replicas were to leave, and {world.may_go} times one was told that it may"


def an_accepted_call_ends_once_and_a_refused_one_never(world):
    for calls, ends in ((world.accepted, 1), (world.refused, 0)):
        for call in calls:
            if call.ends != ends:
                yield f"call {call.args[0]} ended {call.ends} times, not {ends}"


def an_accepted_call_is_counted_once(world):
    if world.counted != len(world.accepted):
        yield f"{world.counted} calls were counted and {len(world.accepted)} accepted"


def a_call_starts_once_and_an_idempotent_one_twice_at_most(world):
    for call, starts in world.starts.items():
        if starts > 1 + call.method.idempotent:
            yield f"call {call.args[0]} started {starts} times"


def every_callback_runs_once(world):
    for call in world.accepted:
        if call.callbacks_run != call.callbacks_asked:
            yield f"{call.callbacks_run} of {call.callbacks_asked} callbacks of call {call.args[0]} ran"


def nothing_waits_at_the_end(world):
    if world.router.waiting or world.router.parked:
        yield f"{world.router.waiting} calls wait and {world.router.parked} are parked at the end"


def all_room_is_free_at_the_end(world):
    room = world.router._queue.free
    if room != world.setting.queue_size:
        yield f"{room} of {world.setting.queue_size} places in the queue are free at the end"


def nothing_is_remembered_at_the_end(world):
    if world.router._queue.unbound:
        yield f"{len(world.router._queue.unbound)} calls are still said to wait for any replica"


def all_slots_are_free_at_the_end(world):
    for lane in (replica.lane for replica in world.replicas if replica.alive):
        if len(lane.free) + lane.withdrawn != lane.slots:
            yield f"{lane} has {len(lane.free)} free slots and {lane.withdrawn} withdrawn at the end"
        if lane.abandoned:
            yield f"{lane} counts {lane.abandoned} abandoned calls at the end"


RULES_BETWEEN = (
    no_more_wait_than_there_is_room_for,
    none_waits_beside_a_free_slot,
    none_is_held_back_while_there_is_room,
    every_turn_is_counted,
    a_batch_waits_for_others_where_one_replica_may_get_them,
)
RULES_WHEN_DRAINED = (what_was_accepted_is_served,)
RULES_AT_THE_END = (
    idle_is_said_when_it_is_so,
    who_leaves_is_told_once_that_it_may,
    an_accepted_call_ends_once_and_a_refused_one_never,
    an_accepted_call_is_counted_once,
    a_call_starts_once_and_an_idempotent_one_twice_at_most,
    every_callback_runs_once,
    nothing_waits_at_the_end,
    all_room_is_free_at_the_end,
    nothing_is_remembered_at_the_end,
    all_slots_are_free_at_the_end,
)


def broken_rules(world):
    """Run *world* to its end and yield each rule that it broke, with what was wrong."""
    for advance, rules in (
        (world.settle, RULES_BETWEEN),
        (world.finish, RULES_WHEN_DRAINED),
        (world.router.end, RULES_AT_THE_END),
    ):
        advance()
        for rule in rules:
            for wrong in rule(world):
                yield f"{rule.__name__.replace('_', ' ')}: {wrong}"


# -- the second operation in the middle of the first -------------------------------------------------------------------


class MustWaitError(BaseException):
    """The second operation would have to wait for a lock that the first holds."""


class SpinsError(BaseException):
    """The second operation, or after it the first, does not end."""


class Turnstile:
    """A re-entrant lock that knows which operation runs: the second runs in the middle of the first."""

    second_runs: ClassVar[bool] = False

    def __init__(self):
        self._held_by_first = 0

    def acquire(self, blocking=True, timeout=-1):  # noqa: FBT002 - as threading.RLock
        if not Turnstile.second_runs:
            self._held_by_first += 1
        elif self._held_by_first:
            raise MustWaitError
        return True

    def release(self):
        if not Turnstile.second_runs:
            self._held_by_first -= 1

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *_):
        self.release()

    def _is_owned(self):
        return True


class Shared(sage_plugins.call.lazy_future._Shared):
    __slots__ = ()

    def __init__(self):
        super().__init__()
        self.condition = threading.Condition(Turnstile())


@pytest.fixture(autouse=True)
def _locks_know_whose_turn_it_is(monkeypatch):
    monkeypatch.setattr(sage_plugins.call.call, "_GIVING_UP", Turnstile())
    monkeypatch.setattr(sage_plugins.call.lazy_future, "_MAKING", Turnstile())
    monkeypatch.setattr(sage_plugins.call.lazy_future, "_Shared", Shared)


@pytest.fixture(autouse=True)
def _circles_are_found():
    if not hasattr(signal, "SIGVTALRM"):
        yield
        return
    before = signal.signal(signal.SIGVTALRM, spins)
    yield
    signal.signal(signal.SIGVTALRM, before)


def place(frame):
    """Describe where a frame is."""
    code, line = frame.f_code, frame.f_lineno or frame.f_code.co_firstlineno
    source = linecache.getline(code.co_filename, line).strip()
    instruction = dis.opname[code.co_code[frame.f_lasti]]
    return f"{Path(code.co_filename).name}:{line} in {code.co_name}, at {instruction} of `{source}`"


def limit_seconds(seconds):
    """Raise SpinsError after so many seconds of processor time, if the system has such timers; 0 turns this off."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)


def spins(_, frame):
    raise SpinsError(f"it goes round in circles, {place(frame)}")


class Switch:
    """
    Runs *second* before the given step of the code in the `with` block.

    Attributes:
        reached: Whether there was such a step.
        possible: Whether *second* could run there without waiting for a lock.
        where: Describes the step, once it was reached.
    """

    FILES = frozenset(
        module.__file__
        for module in (
            sage_plugins.call.batch,
            sage_plugins.call.call,
            sage_plugins.call.lazy_future,
            sage_plugins.routing.prefetch,
            sage_plugins.routing.draining,
            sage_plugins.routing.slot_recovery.inventory,
            sage_plugins.routing.slot_recovery.recovery,
            sage_plugins.routing.lane,
            sage_plugins.routing.losses,
            sage_plugins.routing.method_limits,
            sage_plugins.routing.open_batch,
            sage_plugins.routing.queue,
            sage_plugins.routing.router,
        )
    )

    def __init__(self, step, second):
        self.reached = False
        self.possible = True
        self._steps_left = step
        self._second = second
        self.where = None

    def __enter__(self):
        self._traced_before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # Python 3.12 reports steps only if a frame has asked before `settrace`
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self._traced_before)
        limit_seconds(0)

    def _trace(self, frame, event, _):
        if frame.f_code.co_filename not in self.FILES:
            return None
        frame.f_trace = self._trace  # set it first: without it, Python 3.13 reports no steps
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and not self.reached:
            self._steps_left -= 1
            if not self._steps_left:
                self._switch(frame)
        return self._trace

    def _switch(self, frame):
        self.reached = True
        self.where = place(frame)
        Turnstile.second_runs = True
        limit_seconds(PATIENCE)
        try:
            self._second()
        except MustWaitError:
            self.possible = False  # what the first operation does now says nothing
        finally:
            Turnstile.second_runs = False


def interleave(setting, first, second, step, router=Router):
    """Run *second* before the given step of *first*. Return whether there was such a step, and the failure or None."""
    world = World(SETTINGS[setting], router)
    switch = Switch(step, lambda: OPERATIONS[second](world))
    try:
        with switch:
            OPERATIONS[first](world)
        wrong = list(broken_rules(world)) if switch.possible else []
    except (Exception, SpinsError) as error:  # noqa: BLE001 - no operation may raise
        wrong = [f"{type(error).__name__}: {error}"]
    if not wrong or not switch.possible:
        return switch.reached, None
    moment = f"while a thread was in {switch.where}" if switch.reached else "afterwards"
    return switch.reached, (
        "\n  ".join((f"{first} / {second}: {second!r} {moment}", *wrong))
        + f'\n  play it again: SAGE_INTERLEAVING="{setting}: {first} / {second} / {step}" '
        "pytest tests/routing/test_interleavings.py"
    )


def search(setting, first, second, router=Router):
    """Try every step of *first*. Return the number of the last step tried, and the first failure or None."""
    for step in count(1):
        reached, failure = interleave(setting, first, second, step, router)
        if failure or not reached:
            break
    return step, failure


# -- the tests ---------------------------------------------------------------------------------------------------------

SUSPECTED = [(first, "suspect") for first in ("route", "answer", "cancel", "give up running")]

#: For each setting, pairs in which one operation undoes, or takes, what the other looks for; both orders run.
AT_RISK = {
    "two slots": SUSPECTED,
    "a slot is free": [("route", "suspect"), ("answer", "suspect")],
    "one slot": [
        *SUSPECTED,
        ("route", "answer"),
        ("answer", "give up running"),
        ("die", "give up running"),
        ("drain", "route"),
        ("close to outsiders", "drain"),
        ("watch running", "answer"),
        ("wait", "answer"),
        ("replace", "route"),
        ("replace", "answer"),
    ],
    "with a standby": [("change balancer", "route"), ("change balancer", "answer"), ("avoid", "route")],
    "nothing waits": [("route", "answer"), ("die", "drain")],
    "narrow queue": [*SUSPECTED, ("route", "answer"), ("route", "cancel"), ("answer", "cancel"), ("drain", "route")],
    "sent": [("start", "cancel"), ("die", "give up waiting")],
    "in turn, no queue": [("route", "answer"), ("close", "route")],
    "in turn": [("retire", "route"), ("change balancer", "answer")],
    "by key": [("close", "route"), ("change balancer", "route"), ("change balancer", "answer"), ("avoid", "route")],
    "by key, nothing waits": [("change balancer", "route")],
    "for the first": [("close", "drain"), ("close", "ask whether idle")],
    "bound, without keys": [
        ("route", "answer"),
        ("answer", "cancel"),
        ("close", "route"),
        ("die", "route"),
        ("drain", "answer"),
        ("change balancer", "answer"),
    ],
    "turns, bound, without keys": [("route", "answer"), ("answer", "cancel")],
    "turns": [("route", "answer"), ("answer", "cancel")],
    "a batch is open": [
        ("route", "suspect"),
        ("cancel", "suspect"),
        ("gather", "suspect"),
        ("route", "gather"),
        ("route", "die"),
        ("gather", "cancel"),
        ("gather", "die"),
        ("gather", "close"),
        ("close", "route"),
    ],
    "batches wait": [("answer", "cancel"), ("answer", "give up running"), ("die", "drain")],
    "ahead": [
        ("answer", "cancel"),
        ("answer", "die"),
        ("answer", "drain"),
        ("give back", "route"),
        ("give back", "give up running"),
        ("give back", "die"),
        ("give back", "drain"),
        ("give back", "close"),
    ],
    "ahead, sent": [
        ("start", "route"),
        ("start", "cancel"),
        ("start", "die"),
        ("start", "drain"),
        ("start", "give up running"),
    ],
    "ahead, mixed": [("answer", "route"), ("answer", "give up waiting")],
    "ahead, narrow queue": [("answer", "cancel"), ("give back", "route")],
    "ahead, two replicas": [("give back", "answer"), ("answer", "close"), ("die", "give back")],
    "ahead, bound, without keys": [("answer", "route"), ("give back", "answer")],
    "ahead, turns": [("answer", "route"), ("answer", "cancel")],
    "inline": [("give up waiting", "take turns"), ("answer", "give up waiting"), *SUSPECTED],
}

only_without_a_wish = pytest.mark.skipif(ONE is not None, reason="SAGE_INTERLEAVING asks for one interleaving only")


@only_without_a_wish
@pytest.mark.parametrize(
    ("setting", "first", "second"),
    [
        pytest.param(setting, *pair, id=f"{setting}: {' / '.join(pair)}")
        for setting, pairs in AT_RISK.items()
        for one, other in pairs
        for pair in ((one, other), (other, one))
    ],
)
def test_pairs_at_risk_keep_the_rules_at_every_step(setting, first, second):
    """Whichever step of one operation of a risky pair the other interrupts, the router keeps its rules."""
    steps, failure = search(setting, first, second)
    if failure:
        pytest.fail(failure, pytrace=False)
    assert steps > 3, "the first operation was hardly looked at"


@pytest.mark.slow
@only_without_a_wish
@pytest.mark.parametrize("first", OPERATIONS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_all_pairs_keep_the_rules_at_every_step(setting, first):
    """Whichever step of any operation any other interrupts, the router keeps its rules."""
    failures = [failure for second in OPERATIONS if (failure := search(setting, first, second)[1])]
    if failures:
        pytest.fail("\n".join(failures), pytrace=False)


if ONE is not None:

    def test_the_one_interleaving_asked_for():
        """The router keeps its rules in the interleaving that SAGE_INTERLEAVING names."""
        setting, operations = ONE.split(": ")
        first, second, step = operations.split(" / ")
        reached, failure = interleave(setting, first, second, int(step))
        if failure:
            pytest.fail(failure, pytrace=False)
        assert reached, f"{first!r} has no step {step} any more"


# -- faults that the search must find: a check that has never failed proves nothing ------------------------------------


class SubtractsOnlyAbove0(Router):
    """Mistakes an abandoned call that ends before it was counted for one that was never counted."""

    def abandoned_ended(self, call):
        with self._lock:
            if call.lane.abandoned > 0:
                call.lane.abandoned -= 1


class NeverLooksAgain(Router):
    """A call that joins the queue does not check whether a slot got free meanwhile."""

    def _joined(self, call):
        pass


class LooksOnlyOnce(Router):
    """Takes for lost what one look misses, though a thread may hold it."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self._recovery._looks_needed = 1


@pytest.mark.parametrize(
    ("router", "setting", "first", "second", "rule"),
    [
        (
            LooksOnlyOnce,
            "a slot is free",
            "route",
            "suspect",
            "holds . pieces of work|has 0 free slots and 3 withdrawn",
        ),
        (SubtractsOnlyAbove0, "one slot", "give up running", "answer", "counts 1 abandoned calls at the end"),
        (NeverLooksAgain, "nothing waits", "route", "answer", "has a free slot"),
    ],
)
def test_a_router_that_breaks_a_rule_between_two_steps_is_found_out(router, setting, first, second, rule):
    """The search finds each faulty router, and its message repeats the failure; the real router passes at that step."""
    _, failure = search(setting, first, second, router)
    assert re.search(rule, failure), failure
    again = re.search(rf'SAGE_INTERLEAVING="{setting}: {first} / {second} / (\d+)"', failure)
    assert interleave(setting, first, second, int(again[1]), router) == (True, failure)
    assert interleave(setting, first, second, int(again[1]), Router) == (True, None)


@pytest.mark.parametrize("router", [SubtractsOnlyAbove0, NeverLooksAgain])
def test_the_same_faults_are_not_seen_when_one_operation_comes_after_the_other(router):
    """If one operation runs after the other, not inside it, the same faults stay hidden."""
    for setting, first, second in (("one slot", "give up running", "answer"), ("nothing waits", "route", "answer")):
        assert interleave(setting, first, second, NEVER, router) == (False, None)
