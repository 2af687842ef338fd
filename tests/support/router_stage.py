"""A router with fake replicas in virtual time, and balancers, for single rules by name."""

from __future__ import annotations

from math import inf

from sage_deploy_testing.doubles.fake_replica import Act, Behaviour, open_replica
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins.call.call import Call
from sage_plugins.routing.router import Router
from sage_plugins.values import CallOptions, MethodKind, MethodPlan

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


class Turns:
    binding = False

    def picker(self, candidates):
        turn = iter(list(candidates) * 1000)
        return lambda _key, _method: next(turn)


class ByKey:
    binding = True

    def picker(self, candidates):
        return lambda key, _method: candidates[key % len(candidates)]
