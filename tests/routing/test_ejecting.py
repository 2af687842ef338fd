"""A router ejects a replica whose calls fail, in virtual time: it gets no calls, then one probe, then calls again."""

from __future__ import annotations

from contextvars import copy_context
from itertools import count
from math import inf

import pytest

from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins.call.call import Call
from sage_plugins.config.nested_keys import OutlierPolicy, Policies
from sage_plugins.errors import CallTimeoutError, ReplicaDiedError
from sage_plugins.resilience.outliers import FEWEST_CALLS
from sage_plugins.routing.guarding.guards import Guards
from sage_plugins.routing.router import Router
from sage_plugins.values import CallOptions, MethodKind, MethodPlan

PLAN = MethodPlan(0, "get", MethodKind.SYNC, idempotent=False, timeout=inf)


class Turns:
    """Chooses the replicas in turn."""

    binding = False

    def picker(self, candidates):
        number = count()
        return lambda _key, _method: candidates[next(number) % len(candidates)]


class Replica:
    """Keeps its calls running until the test ends them."""

    node = None
    run_here = None
    slots = 2

    def __init__(self, index):
        self.id, self.index = f"svc#{index}", index
        self.running = []
        self.give_up = lambda *_: False

    def send(self, call):
        call.claim()
        call.began = call.owner.clock.monotonic()
        self.running.append(call)


class Stage:
    """Three replicas behind a router that ejects after two failures."""

    def __init__(self, replicas=3, **policy):
        self.clock = VirtualClock()
        self.told = []
        policies = Policies(outlier=OutlierPolicy(**{"consecutive": 2} | policy))
        self.router = Router(
            "svc",
            self.clock,
            queue_size=100,
            reject=False,
            guards=Guards(policies, lambda kind, reason, replica: self.told.append((str(kind), replica, reason))),
            count=lambda *_: None,
            refused=lambda *_: None,
            balancer=Turns(),
        )
        self.lanes, self.replicas = {}, {}
        for index in range(replicas):
            replica = Replica(index)
            self.replicas[replica.id] = replica
            self.lanes[replica.id] = self.router.lane(replica.id, index)
            self.router.open(self.lanes[replica.id], replica)

    def call(self):
        now = self.clock.monotonic()
        call = Call(self.router, PLAN, (), {}, CallOptions(), now, inf, inf, copy_context())
        self.router.route(call)
        return call

    def end(self, call, *, died=False, error=None):
        replica = self.replicas[call.lane.id]
        replica.running.remove(call)
        call.claim_outcome()
        call.ended = self.clock.monotonic()
        self.lanes[replica.id].freed(call)
        call.publish(None, ReplicaDiedError("gone", service="svc") if died else error)

    def round(self, *fails):
        """
        Make as many calls as there are replicas, one by one, and return where they ran.

        At the replicas *fails* they die.
        """
        ran = []
        for _ in self.replicas:
            call = self.call()
            ran.append(call.lane.index)
            self.end(call, died=call.lane.index in fails)
        return sorted(ran)

    def kinds(self):
        return [(kind, replica) for kind, replica, _ in self.told]


def test_replica_where_calls_fail_in_a_row_gets_none():
    """A replica whose calls fail in a row gets no further calls. The event says how many failed."""
    stage = Stage()
    assert stage.round(0) == [0, 1, 2]
    assert stage.round(0) == [0, 1, 2]
    assert 0 not in stage.round() + stage.round()
    assert stage.kinds() == [("replica_ejected", "svc#0")]
    assert "2 calls in a row" in stage.told[0][2]


def test_replica_returns_with_one_probe():
    """An ejected replica gets one probe. If it succeeds, the replica has all its slots again."""
    stage = Stage(replicas=2)
    stage.round(0)
    stage.round(0)
    stage.clock.advance(5.0)
    calls = [stage.call() for _ in range(6)]
    assert len(stage.replicas["svc#0"].running) == 1
    assert len(stage.replicas["svc#1"].running) == 2
    stage.end(stage.replicas["svc#0"].running[0])
    assert len(stage.replicas["svc#0"].running) == 2
    assert stage.kinds()[1:] == [("ejection_probed", "svc#0"), ("ejection_ended", "svc#0")]
    while any(replica.running for replica in stage.replicas.values()):
        for call in calls:
            if call.lane is not None and not call.over():
                stage.end(call)
    assert all(call.over() for call in calls)
    assert all(lane.inflight == 0 and lane.withdrawn == 0 for lane in stage.lanes.values())


def test_probe_that_fails_has_it_out_for_twice_as_long():
    """A probe that fails ejects the replica for twice as long, and no slot is lost."""
    stage = Stage()
    stage.round(0)
    stage.round(0)
    stage.clock.advance(5.0)
    stage.round(0)
    assert stage.kinds()[-1] == ("replica_ejected", "svc#0")
    assert "no calls for 10 s" in stage.told[-1][2]
    stage.clock.advance(9.9)
    assert 0 not in stage.round()
    stage.clock.advance(0.2)
    assert 0 in stage.round() + stage.round()
    assert stage.lanes["svc#0"].withdrawn == 0
    assert stage.lanes["svc#0"].inflight == 0


def test_where_most_fail_all_get_calls():
    """If more than half of the replicas would be ejected, all get calls."""
    stage = Stage(replicas=2)
    for _ in range(8):
        if len(stage.told) < 2:
            stage.end(stage.call(), died=True)
    assert [kind for kind, _ in stage.kinds()] == ["replica_ejected", "ejection_ended"]
    assert "1 of 2 were out" in stage.told[1][2]
    assert stage.round() == [0, 1]


@pytest.mark.parametrize(("stage_of_call", "ejected"), [("run", True), ("queue", False)])
def test_only_a_call_that_times_out_while_it_runs_speaks_against_its_replica(stage_of_call, ejected):
    """A timeout counts against the replica only if the call was running, not if it waited in the queue."""
    stage = Stage()
    for _ in range(12):
        call = stage.call()
        late = CallTimeoutError("late", stage=stage_of_call, service="svc", method="get")
        stage.end(call, error=late if call.lane.index == 0 else None)
    assert (stage.kinds() == [("replica_ejected", "svc#0")]) == ejected
    assert bool(stage.told) == ejected


@pytest.mark.parametrize(("seconds", "ejected"), [(0.4, False), (0.7, True)])
def test_replica_that_is_far_slower_than_its_peers_gets_no_calls(seconds, ejected):
    """A replica far slower than the others is ejected; run times count from the start of each call."""
    stage = Stage(interval=100.0)
    stage.clock.advance(50.0)
    for _ in range(FEWEST_CALLS):
        calls = {call.lane.index: call for call in (stage.call() for _ in range(3))}
        stage.clock.advance(0.1)
        stage.end(calls[1])
        stage.end(calls[2])
        stage.clock.advance(seconds - 0.1)
        stage.end(calls[0])
    stage.clock.advance(100.0)
    stage.round()
    assert (("replica_ejected", "svc#0") in stage.kinds()) == ejected


def test_replica_that_leaves_is_forgotten():
    """A replica that leaves while ejected is forgotten: no further event names it."""
    stage = Stage()
    stage.round(0)
    stage.round(0)
    stage.router.close_lane(stage.lanes["svc#0"])
    stage.clock.advance(10.0)
    assert stage.kinds() == [("replica_ejected", "svc#0")]


def test_router_that_ends_sets_no_timer():
    """A router that has ended sets no timer for an ejection."""
    stage = Stage()
    stage.round(0)
    stage.round(0)
    stage.router.drain("ends", lambda: None)
    stage.router.end()
    stage.clock.advance(100.0)
    assert stage.kinds() == [("replica_ejected", "svc#0")]


@pytest.mark.parametrize("avoided", [True, False])
def test_replica_that_is_unwell_and_out_stays_what_it_is(avoided):
    """A health check that passes does not end an ejection."""
    stage = Stage()
    stage.round(0)
    stage.round(0)
    stage.router.avoid(stage.lanes["svc#0"], avoided=avoided)
    stage.router.avoid(stage.lanes["svc#0"], avoided=False)
    assert 0 not in stage.round() + stage.round()
