"""Recycling when there is no room for two replicas, at zero replicas and while the service stops; and what it costs."""

from __future__ import annotations

import threading

import pytest

import sage_deploy_autoscalers
import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins import ServiceDeploymentConfig, hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Placed, Refused, Registration

NEVER_LATE = {"startup_timeout": 1e6, "timeout": 1e6, "drain_timeout": 1e6}


class Service:
    """Each constructor after the first waits for the gate, if there is one."""

    built = 0
    gate: threading.Event | None = None

    def __init__(self):
        cls = type(self)
        cls.built += 1
        if cls.gate is not None and cls.built > 1:
            assert cls.gate.wait(20)

    def echo(self, value):
        return value


class Full:
    """A target with room for one replica at a time."""

    def __init__(self):
        self.target = sage_deploy_local.sage_register_targets()[0].create(None)
        self.living = 0

    def place(self, specs):
        return [Placed(None, "there is room") if not self.living else Refused("the house is full") for _ in specs]

    def start(self, spec, at, events, clock):
        self.living += 1
        replica = self.target.start(spec, at, events, clock)
        stop, once = replica.stop, []

        def stopping(grace):
            if not once:
                once.append(None)
                self.living -= 1
            return stop(grace)

        replica.stop = stopping
        return replica

    def close(self):
        self.target.close()


class Plugin:
    @hookimpl
    def sage_register_targets(self):
        return [Registration("full", lambda _: Full(), "One at a time", capabilities=frozenset({"in_process"}))]


class Stage:
    def __init__(self, environments, fields):
        self.clock, self.events = VirtualClock(), []
        self.cls = type("Service", (Service,), {"built": 0})
        plugins = (sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading)
        registry = Registry.of(*plugins, sage_deploy_autoscalers, Plugin())
        self.env = environments("test", registry=registry, clock=self.clock, on_event=self.events.append)
        config = ServiceDeploymentConfig(**NEVER_LATE | fields)
        self.env.register_service_with_config("svc", self.cls, deployment_config=config)
        self.env.deploy()
        self.handle = self.env.service("svc")

    @property
    def ids(self):
        return [each["id"] for each in self.env.get_service_status("svc")["replicas"] if each["state"] == "ready"]

    def after(self, seconds=1.0):
        self.clock.advance(seconds)
        return self.ids

    def told(self, *kinds):
        return [event for event in list(self.events) if event.kind in kinds]


@pytest.fixture
def stage(environments):
    return lambda **fields: Stage(environments, fields)


def test_where_there_is_no_room_for_two_the_old_one_goes_first(stage, until):
    """Without room for two, the old replica stops first, an event says so, and calls wait for the new one."""
    svc = stage(target="full", recycle={"max_calls": 1})
    for generation in range(1, 5):  # repeated recycling is no crash loop, so nothing is delayed
        assert svc.handle.echo(generation) == generation
        until(lambda: svc.after() == [f"svc#0.{generation}"])  # noqa: B023
    first = svc.told("recycling")[0].reason
    assert first.startswith("calls 1, recycle.max_calls is 1, and there is no room for a second one: the house is full")
    assert first.endswith("; it stops first, and a new one starts after it")
    assert svc.told("replacement_delayed", "crash_loop") == []
    restarts = svc.env.metrics()["svc"]["sage_replica_restarts_total"].values
    assert {reason: number for reason, number in restarts.items() if number} == {("recycled",): 4}
    assert svc.env.get_service_status("svc")["state"] == "ready"


def test_service_that_sleeps_has_nothing_to_recycle(stage, until):
    """At zero replicas nothing is recycled, and a replica started by a call gets its full age."""
    zero = {"min": 0, "max": 1, "scale_to_zero_delay": 5.0, "downscale_delay": 0.0, "upscale_delay": 0.0}
    svc = stage(autoscale=zero | {"look_back": 1.0}, recycle={"max_age": 1e5})
    assert svc.handle.echo(1) == 1
    until(lambda: svc.after() == [])
    svc.clock.advance(4e5)
    assert svc.told("recycling") == []
    call = svc.handle.submit("echo", 2)
    until(lambda: call.done() or svc.after(0.1) is None)  # `after` lets time pass
    assert call.result() == 2


def test_close_while_a_fresh_replica_starts_ends_both(stage, until, in_thread):
    """`close` while a recycled replica's successor starts stops both and starts no others."""
    svc = stage(recycle={"max_age": 10.0})
    svc.cls.gate = threading.Event()
    until(lambda: svc.after() and svc.cls.built == 2)
    closing = in_thread(svc.env.close)
    until(lambda: svc.env.get_service_status("svc")["state"] != "ready")
    svc.cls.gate.set()
    closing.result(20)
    assert {each["state"] for each in svc.env.get_service_status("svc")["replicas"]} == {"stopped"}
    assert svc.told("recycled", "recycling_failed", "crash_loop") == []


def test_change_by_hand_waits_for_a_replica_that_is_being_recycled(stage, until, in_thread):
    """`scale` waits until the recycling of a replica ends, so no index is taken twice."""
    svc = stage(recycle={"max_age": 10.0})
    svc.cls.gate = threading.Event()
    until(lambda: svc.after() and svc.cls.built == 2)
    scaling = in_thread(svc.env.scale, "svc", 2)
    svc.cls.gate.set()
    scaling.result(20)
    until(lambda: svc.ids == ["svc#0.1", "svc#1"])


def test_service_without_recycle_has_no_timer_and_one_for_age_alone_no_thread(stage):
    """A service without `recycle` has no recycler, and `max_age` alone needs no thread."""
    assert stage().env.task("svc").replicas.recycler is None
    svc = stage(recycle={"max_age": 1000.0})
    before = set(threading.enumerate())
    svc.clock.advance(500.0)
    assert {thread.name for thread in set(threading.enumerate()) - before} == set()
    assert not any("svc-recycle" in thread.name for thread in threading.enumerate())
