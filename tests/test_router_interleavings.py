"""
Whatever one thread does between any two steps of another, every rule of the router holds.

The router and its calls are mostly without locks, so a thread may be interrupted anywhere and find the world changed
when it goes on. Here every such moment is tried, one by one, in a single thread: Python tells a trace function
(`sys.settrace` with `f_trace_opcodes`) of each step of the interpreter, and before the n-th step that the first
operation takes in `call.py` and `router.py`, the trace function carries out the second operation from start to end.
Then the first goes on, everything is brought to its end, and the rules are checked. This is repeated, in a new world
each time, for n = 1, 2, 3 ... until the first operation has no n-th step.

Locks are replaced by `Turnstile`s, which know whose turn it is. Where the second operation would have to wait for a
lock that the first holds, the switch is not one that a second thread could carry through; it is passed over.

The pairs of operations that are most at risk are always tried; `make test-long` tries each with each in every setting.
A failure names setting, operations and step, and is played again by

    SAGE_INTERLEAVING="one slot: route / answer / 17" pytest tests/test_router_interleavings.py
"""

from __future__ import annotations

import dis
import linecache
import os
import sys
import threading
from collections import Counter
from concurrent.futures import wait
from itertools import count, cycle
from math import inf
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest

import sage_plugins.call
import sage_plugins.router
from sage_plugins.call import Call
from sage_plugins.errors import NoReplicaError, OverloadedError, ServiceStoppedError
from sage_plugins.router import Router
from sage_plugins.testing.fake_replica import Act, Behaviour, FakeReplica
from sage_plugins.testing.virtual_clock import VirtualClock
from sage_plugins.values import CallOptions, MethodKind, MethodPlan

ONE = os.environ.get("SAGE_INTERLEAVING")

ONCE = MethodPlan(0, "once", MethodKind.SYNC, idempotent=False, timeout=inf)
TWICE = MethodPlan(1, "twice", MethodKind.SYNC, idempotent=True, timeout=inf)

#: Seconds until a call's deadline.
TIMEOUT = 10


# -- settings ----------------------------------------------------------------------------------------------------------


class InTurn:
    binding = False

    def picker(self, candidates):
        turn = cycle(candidates)
        return lambda _key: next(turn)


class ByKey:
    binding = True

    def picker(self, candidates):
        return lambda key: candidates[key % len(candidates)]


class Setting(NamedTuple):
    """A service, and two calls more than it has slots."""

    queue_size: int
    reject: bool = False
    balancer: type | None = None
    replicas: int = 1
    slots: int = 1
    in_callers_thread: bool = False
    started: bool = True  # whether the replicas have begun to run what they were sent


SETTINGS = {
    "one slot": Setting(5),
    "two slots": Setting(5, slots=2),
    "narrow queue": Setting(1),
    "sent": Setting(1, started=False),
    "in turn": Setting(5, balancer=InTurn, replicas=2),
    "in turn, refusing": Setting(1, reject=True, balancer=InTurn, replicas=2),
    "in turn, no queue": Setting(0, balancer=InTurn, replicas=2),
    "by key": Setting(3, balancer=ByKey, replicas=2),
    "inline": Setting(2, in_callers_thread=True),
    "inline, no queue": Setting(0, balancer=InTurn, replicas=2, in_callers_thread=True),
}


# -- one world, and what may be done in it -----------------------------------------------------------------------------


class BrokenRuleError(AssertionError):
    pass


class WatchedCall(Call):
    """A call that knows how often it ended."""

    ends = 0
    callbacks_asked = 0
    callbacks_run = 0

    def publish(self, *outcome):
        self.ends += 1
        super().publish(*outcome)


class Replica(FakeReplica):
    """It may die at the very moment when it starts a call: then it reports that call as well."""

    def __init__(self, router, lane, clock, **settings):
        self.lane, self.follow, self._router = lane, lane.follow, router
        super().__init__(self, clock, id=lane.id, index=lane.index, **settings)
        router.open(lane, self)

    def lost(self, *what):
        self._router.lost(self.lane, *what)

    def _start(self, call, act):
        super()._start(call, act)
        if self._reported:
            self._clock.call_at(self._clock.monotonic(), self._report)


OPERATIONS = {}


def operation(function):
    OPERATIONS[function.__name__.replace("_", " ")] = function
    return function


class World:
    """A router with its replicas, whose methods run until they are told to answer."""

    def __init__(self, setting, router):
        self.setting = setting
        self.clock = VirtualClock()
        self.counted = 0
        self.starts = Counter()
        self.accepted, self.refused = [], []
        self.draining = self.idle = self.idle_too_soon = False
        self.router = router(
            "kv",
            self.clock,
            queue_size=setting.queue_size,
            reject=setting.reject,
            retry_lost=True,
            count=self.count,
            refused=lambda _method, _reason: None,
            balancer=setting.balancer and setting.balancer(),
        )
        self.router._lock = Turnstile()
        self.replicas = []
        for _ in range(setting.replicas):
            self.open()
        for _ in range(setting.replicas * setting.slots + 2):
            self.route()
        if setting.started:
            self.start()

    def count(self, _method, _outcome, _wait_s, _run_s):
        self.counted += 1

    def started_call(self, call):
        self.starts[call] += 1

    def said_idle(self):
        self.idle = True
        self.idle_too_soon |= not all(call.settled() for call in self.accepted)

    def first(self, *, started):
        """The oldest call that has started, or that has not; None if there is none."""
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
        method, options = (ONCE, TWICE)[number % 2], CallOptions(key=number)
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
    def take_turns(self, *calls):
        """Where calls run in their callers' threads: callers who were given a slot take it up, as in `Call.hold`."""
        for call in calls or tuple(self.accepted):
            if call._take_grant():
                call.lane.run_here(call)

    # Replicas

    @operation
    def start(self):
        """Workers look for what was sent to them."""
        self.clock.advance(0)

    @operation
    def answer(self):
        self.replicas[0].answer_one()

    @operation
    def die(self):
        """The first replica is gone, and that is noticed now."""
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
            started=self.started_call,
            in_callers_thread=self.setting.in_callers_thread,
        )
        self.replicas.append(replica)

    @operation
    def close(self):
        self.router.close_lane(self.replicas[0].lane)

    @operation
    def find_no_replica(self):
        self.router.unavailable(lambda: NoReplicaError("none starts"))

    # The end of the service

    @operation
    def close_to_outsiders(self):
        if not self.draining:
            self.router.close_to_outsiders("stops", lambda: None)

    @operation
    def drain(self):
        if not self.draining:
            self.draining = True
            self.router.drain("stops", self.said_idle)
