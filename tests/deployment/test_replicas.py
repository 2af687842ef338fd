"""Several replicas of one service: which one gets the next call, and what happens when plugins fail."""

from __future__ import annotations

import collections
import logging
import threading
from typing import Any

import attrs
import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_local.target
import sage_deploy_monitors
import sage_deploy_threading
from sage_plugins import errors
from sage_plugins.hookspecs import hookimpl
from sage_plugins.interfaces import QuietMonitor
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Placed, Refused, Registration

PATIENCE = 20.0
FIRST_PARTY = (sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading)


class Numbered:
    """A replica that returns its index."""

    def __init__(self):
        self.calls = 0

    def index(self):
        self.calls += 1
        return self.ctx.replica_index

    def mine(self):
        return id(self), threading.current_thread().name

    def count(self):
        return self.calls

    def run(self, function, *args):
        return self.ctx.replica_index, function(*args)


@pytest.fixture
def balanced(deploy):
    """Deploys `Numbered` behind a load balancer."""

    def make(strategy="single", balancer="round_robin", replicas=3, **config):
        fields = {"replicas": replicas, "load_balancing": True, "load_balancer": balancer}
        return deploy(strategy, Numbered, **(fields | config))

    return make


# -- instances ---------------------------------------------------------------------------------------------------------


def test_replicas_without_balancing_are_primary_and_standby(deploy):
    """With `load_balancing: false` the first replica gets all calls; the others are standbys."""
    service = deploy("single", Numbered, replicas=2, load_balancing=False, failover_enabled=True)
    assert [service.handle.index() for _ in range(6)] == [0] * 6


# -- who gets the next call --------------------------------------------------------------------------------------------


def test_round_robin_takes_turns(balanced, strategy):
    """`round_robin` gives one caller's calls to the replicas in order of their index, over and over."""
    service = balanced(strategy)
    assert [service.handle.index() for _ in range(9)] == [0, 1, 2] * 3


def test_round_robin_is_exact_under_many_threads(balanced, in_thread):
    """While all replicas are free, `round_robin` gives each the same number of calls, also with many callers."""
    service = balanced("pool", thread_count=16, thread_pool_size=16)
    start = threading.Barrier(6)

    def caller():
        start.wait(PATIENCE)
        return collections.Counter(service.handle.index() for _ in range(100))

    callers = [in_thread(caller) for _ in range(6)]
    total = sum((each.result(PATIENCE) for each in callers), collections.Counter())
    assert total == {0: 200, 1: 200, 2: 200}


def test_least_loaded_avoids_a_busy_replica(balanced, gate, in_thread):
    """`least_loaded` never chooses a replica that has more calls than another."""
    service = balanced("pool", "least_loaded", thread_count=2, thread_pool_size=2)
    held = service.handle.submit("run", gate)
    gate.wait_entered()
    seen = collections.Counter(service.handle.index() for _ in range(20))
    gate.open()
    busy, _ = held.result(PATIENCE)
    assert busy not in seen
    assert sum(seen.values()) == 20


def test_least_loaded_takes_turns_among_equals(balanced, strategy):
    """Among equally loaded replicas `least_loaded` takes turns, so one caller reaches all."""
    service = balanced(strategy, "least_loaded")
    seen = collections.Counter(service.handle.index() for _ in range(9))
    assert seen == {0: 3, 1: 3, 2: 3}


def test_least_loaded_is_the_default_in_process(deploy):
    """Within one process `least_loaded` is the default balancer."""
    service = deploy("single", Numbered, replicas=2, load_balancing=True)
    assert "balancer  least_loaded" in str(service.env.plan())


@pytest.mark.parametrize("balancer", ["round_robin", "least_loaded"])
@pytest.mark.parametrize("queue_size", [0, 10])
@pytest.mark.parametrize("overload", ["block", "reject"])
def test_busy_choice_keeps_no_call_waiting(balanced, threaded, gate, balancer, queue_size, overload):  # noqa: PLR0913, PLR0917 - fixtures
    """While a replica is free, no call waits or is refused because the balancer chose a busy one."""
    one = {"thread_count": 1, "thread_pool_size": 1} if threaded == "pool" else {}
    service = balanced(threaded, balancer, queue_size=queue_size, overload=overload, **one)
    held = [service.handle.submit("run", gate) for _ in range(2)]
    gate.wait_entered(2)
    seen = {service.handle.with_options(timeout=PATIENCE).index() for _ in range(6)}
    gate.open()
    busy = {call.result(PATIENCE)[0] for call in held}
    assert len(busy) == 2
    assert seen == {0, 1, 2} - busy


def test_busy_choice_keeps_no_call_waiting_under_inline(balanced, gate, in_thread):
    """Under `inline` a caller goes to a replica with a free slot if the balancer chose a busy one."""
    service = balanced("inline", queue_size=0, overload="reject")
    held = [in_thread(service.handle.call, "run", gate) for _ in range(2)]
    gate.wait_entered(2)
    seen = {service.handle.index() for _ in range(4)}
    gate.open()
    busy = {call.result(PATIENCE)[0] for call in held}
    assert seen == {0, 1, 2} - busy


def test_waiting_call_goes_to_the_first_replica_that_is_free(balanced, gates):
    """Waiting calls share one queue: the first replica with a free slot takes the oldest call."""
    service = balanced(replicas=2)
    held = [gates(), gates()]
    running = []
    for gate in held:
        running.append(service.handle.submit("run", gate))
        gate.wait_entered()
    waiting = [service.handle.submit("run", lambda: None) for _ in range(4)]
    held[1].open()
    free, _ = running[1].result(PATIENCE)
    assert [call.result(PATIENCE)[0] for call in waiting] == [free] * 4
    held[0].open()


@pytest.mark.parametrize("overload", ["block", "reject"])
def test_bound_counts_for_all_replicas_together(balanced, occupy, overload):
    """`queue_size` bounds the queue of the service, not of each replica."""
    service = balanced(queue_size=2, overload=overload)
    occupied = occupy(service)
    calls = [service.handle.submit("index") for _ in range(2)]
    hasty = service.handle.with_options(timeout=0.02)
    with pytest.raises((errors.OverloadedError, errors.CallTimeoutError)):
        hasty.submit("index")
    assert service.waiting == 2
    occupied.open()
    for call in calls:
        call.result(PATIENCE)


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_metrics_are_summed_over_the_replicas(balanced, strategy):
    """Metrics are summed over all replicas."""
    service = balanced(strategy)
    for _ in range(30):
        service.handle.index()
    with pytest.raises(ZeroDivisionError):
        service.handle.call("run", lambda: 1 / 0)
    metrics = service.metrics
    assert (metrics.request_count, metrics.error_count) == (31, 1)
    assert dict(metrics.outcomes) == {"ok": 30, "error": 1}


# -- plugins that misbehave --------------------------------------------------------------------------------------------


@attrs.define
class Watcher(QuietMonitor):
    """A monitor that keeps its events."""

    events: list[Any] = attrs.field(factory=list)

    def event(self, event):
        self.events.append(event)


class Strange:
    """A balancer that fails in the given way."""

    binding = False

    def __init__(self, how):
        self.how = how
        self.asked = 0

    def picker(self, candidates):
        if self.how == "raises at composition":
            raise RuntimeError("cannot compose")

        def pick(_key, _method):
            self.asked += 1
            if self.how == "raises":
                raise RuntimeError("cannot choose")
            if self.how == "raises later" and self.asked > 4:
                raise RuntimeError("cannot choose any more")
            if self.how == "stops":
                raise StopIteration
            if self.how == "misses a key":
                raise errors.InvalidKeyError("every call needs a key")
            return {"foreign": object(), "nothing": None, "number": 0, "unhashable": []}.get(self.how, candidates[0])

        return pick


@pytest.fixture
def plugged():
    """Makes a registry of the packaged plugins plus the given balancer and monitors."""

    def make(balancer=None, **monitors):
        class Plugin:
            @hookimpl
            def sage_register_load_balancers(self):
                return [Registration("strange", lambda *_: balancer, "Fails as told")]

            @hookimpl
            def sage_register_monitors(self):
                return [
                    Registration(name, lambda _, monitor=monitor: monitor, "Of the tests")
                    for name, monitor in monitors.items()
                ]

        return Registry.of(*FIRST_PARTY, Plugin())

    return make


@pytest.mark.parametrize(
    "how",
    [
        "raises at composition",
        "raises",
        "raises later",
        "stops",
        "misses a key",
        "foreign",
        "nothing",
        "number",
        "unhashable",
    ],
)
def test_balancer_that_fails_is_replaced_by_turns(balanced, plugged, how, caplog):
    """
    If the balancer raises or returns no replica, the replicas take turns, no call fails, and monitors get an event.
    """
    strange, watcher = Strange(how), Watcher()
    with caplog.at_level(logging.WARNING, "sage_plugins"):
        service = balanced(
            balancer="strange",
            monitors=["metrics", "watcher"],
            env_options={"registry": plugged(strange, watcher=watcher)},
        )
        seen = [service.handle.index() for _ in range(13)]
    expected = [0] * 4 if how == "raises later" else []
    turns = seen[len(expected) :]
    assert seen[: len(expected)] == expected
    assert set(collections.Counter(turns).values()) <= {len(turns) // 3, len(turns) // 3 + 1}
    fenced = [event for event in watcher.events if event.kind == "balancer_fenced"]
    assert fenced
    assert all(event.service == "svc" and "'strange'" in event.reason for event in fenced)
    assert "'strange'" in caplog.text
    if how not in {"raises at composition", "raises later"}:
        assert strange.asked == 1, "it is not asked again"
    assert service.metrics.request_count == 13


class MortalTarget(sage_deploy_local.target.LocalTarget):
    """Replicas in this process that the test can kill. A dead one cannot be placed again."""

    def __init__(self):
        self.started = []

    def place(self, specs):
        return [Refused("no node") if spec.generation else Placed(None, "here") for spec in specs]

    def start(self, spec, at, events, clock):
        replica = super().start(spec, at, events, clock)
        self.started.append((replica, events))
        return replica

    def kill(self, index):
        replica, events = self.started[index]
        events.lost((), (), ConnectionError("killed"))
        replica.stop(PATIENCE)


class Loyal:
    """A balancer that always returns the first replica, even a dead one."""

    binding = False

    def __init__(self, binding):
        self.binding = binding
        self.chosen = None

    def picker(self, candidates):
        first = candidates[0]  # the first one that is ready, until replica 0 is
        if self.chosen is None or first.index == 0:
            self.chosen = first
        return lambda _key, _method: self.chosen


@pytest.mark.parametrize("binding", [False, True], ids=["shared", "binding"])
def test_balancer_that_chooses_a_dead_replica_is_replaced_by_turns(deploy, binding):
    """If the balancer returns a dead replica, the living ones take turns, no call fails, and monitors get an event."""
    target, loyal, watcher = MortalTarget(), Loyal(binding), Watcher()

    class Plugin:
        @hookimpl
        def sage_register_targets(self):
            return [Registration("mortal", lambda _: target, "Of the tests", capabilities=frozenset({"in_process"}))]

        @hookimpl
        def sage_register_load_balancers(self):
            return [Registration("loyal", lambda *_: loyal, "Of the tests")]

        @hookimpl
        def sage_register_monitors(self):
            return [Registration("watcher", lambda _: watcher, "Of the tests")]

    service = deploy(
        "single",
        Numbered,
        env_options={"registry": Registry.of(*FIRST_PARTY, Plugin())},
        target="mortal",
        replicas=3,
        load_balancing=True,
        load_balancer="loyal",
        monitors=["metrics", "watcher"],
    )
    assert [service.handle.index() for _ in range(5)] == [0] * 5
    target.kill(0)
    assert collections.Counter(service.handle.index() for _ in range(10)) == {1: 5, 2: 5}
    (fenced,) = [event for event in watcher.events if event.kind == "balancer_fenced"]
    assert "svc#0" in fenced.reason
    assert "not among the replicas" in fenced.reason
    target.kill(1)
    assert {service.handle.index() for _ in range(5)} == {2}
    assert service.metrics.outcomes == {"ok": 20}


def test_monitors_are_told_what_happens(balanced, plugged):
    """Monitors get an event when a replica becomes ready and when it stops."""
    watcher = Watcher()
    service = balanced(monitors=["watcher"], env_options={"registry": plugged(watcher=watcher)})
    service.env.close()
    kinds = collections.Counter(event.kind for event in watcher.events)
    assert (kinds["replica_ready"], kinds["replica_stopped"]) == (3, 3)
    assert {event.replica for event in watcher.events} == {"svc#0", "svc#1", "svc#2"}


class Recorder:
    """A monitor's recorder that raises in one method."""

    def __init__(self, part):
        self.part = part

    def writer(self):
        return self.record

    def record(self, _method, _outcome, _wait_s, _run_s):
        if self.part == "record":
            raise RuntimeError("record failed")

    def snapshot(self):
        if self.part == "snapshot":
            raise RuntimeError("snapshot failed")
        return {}

    def close(self):
        pass


@pytest.mark.parametrize("part", ["record", "snapshot", "refused", "event", "summary", "close"])
def test_monitor_that_fails_hurts_no_call(deploy, strategy, plugged, occupy, part, caplog):  # noqa: PLR0913, PLR0917 - fixtures
    """Whatever a monitor raises, calls end as without it, other monitors still count, and the service stops."""

    class Bad(Watcher):
        def recorder(self, _who, _methods):
            return Recorder(part)

        def refused(self, method, reason):
            self.fail("refused")

        def event(self, event):
            self.fail("event")

        def summary(self, _snapshots):
            self.fail("summary")
            return {}

        def close(self):
            self.fail("close")

        def fail(self, name):
            if name == part:
                raise RuntimeError(f"{name} failed")

    def fail():
        raise ValueError("the method's own")

    service = deploy(
        strategy,
        env_options={"registry": plugged(bad=Bad())},
        monitors=["bad", "metrics"],
        queue_size=0,
        overload="reject",
        timeout=2.0,
        startup_timeout=2.0,
    )
    assert [service.handle.echo(turn) for turn in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="own"):
        service.handle.call("run", fail)
    occupied = occupy(service)
    with pytest.raises(errors.OverloadedError):
        service.handle.echo()
    occupied.open()
    service.env.close()
    status = service.env.get_service_status("svc")
    assert status["state"] == "stopped"
    assert (status["metrics"].request_count, status["metrics"].rejected_count) == (4 + service.slots, 1)
    assert f"{part} failed" in caplog.text
