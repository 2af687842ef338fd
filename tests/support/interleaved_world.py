"""One router with its replicas and calls, and the operations that may be interleaved there."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import wait

from interleaving_settings import ALL_TWICE, ONCE, TWICE, WAIT, ByKey, InTurn
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
from sage_plugins.values import CallOptions
from turnstile import Turnstile

#: A call's timeout in seconds.
TIMEOUT = 10


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
