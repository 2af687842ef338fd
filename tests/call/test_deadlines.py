"""
Deadlines that pass at the moment when a call starts, which needs a clock that the test controls.

The strategies' suite covers other deadlines.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import copy_context

import pytest

from sage_plugins import ServiceDeploymentConfig, errors
from sage_plugins.call.call import Call
from sage_plugins.clock import SystemClock
from sage_plugins.threads import future_of

PATIENCE = 20.0
#: A timeout that the tests let expire.
SHORT = 0.03


def counted(service):
    return {name: number for name, number in service.metrics.outcomes.items() if number}


def test_deadline_of_a_granted_turn(deploy, gate, in_thread, until, monkeypatch):
    """Under `inline`, a call that expires at the moment when it gets its slot never runs."""
    service = deploy("inline")
    holder = in_thread(service.handle.call, "run", gate)
    gate.wait_entered()
    ran = []
    expire = Call.expire

    def expire_late(call):
        # The caller has found its call expired. Before it ends the call, the slot gets free and goes to the call.
        if call.method.name == "given" and not gate._open.done():
            gate.open()
            holder.result(PATIENCE)
        return expire(call)

    monkeypatch.setattr(Call, "expire", expire_late)
    with pytest.raises(errors.CallTimeoutError) as caught:
        service.handle.with_options(timeout=SHORT).call("given", ran)
    assert caught.value.stage == "queue"
    assert service.metrics.abandoned_count == 0
    assert counted(service) == {"ok": 1, "timeout": 1}
    assert service.handle.echo(1) == 1, "the slot is free again"


class Jumping(SystemClock):
    """The system's clock, which a test can advance."""

    def __init__(self):
        super().__init__()
        self.ahead = 0.0
        self.on_read = None
        real = self.monotonic

        def monotonic():
            if self.on_read is not None:
                self.on_read()
            return real() + self.ahead

        self.monotonic = monotonic


def test_deadline_at_the_moment_of_the_start(deploy, threaded, occupy, until):
    """A call that has expired when a worker takes it up never runs, and its caller gets CallTimeoutError."""
    clock = Jumping()
    service = deploy(threaded, env_options={"clock": clock}, monitors=["metrics"])  # `health` would set a timer
    handle = service.handle.with_options(timeout=1000)
    workers = set()
    start = threading.Barrier(service.slots)

    def who():
        workers.add(threading.current_thread())
        start.wait(PATIENCE)

    for call in [handle.submit("run", who) for _ in range(service.slots)]:
        call.result(PATIENCE)
    occupied = occupy(service)
    ran = []
    late = handle.submit("run", ran.append, 1)
    looked = threading.Event()

    def look():
        # In the worker, about to start the call: the call expires, and its caller notices.
        if threading.current_thread() in workers and not looked.is_set() and occupied._open.done():
            looked.set()
            clock.ahead = 2000.0
            late.done()

    clock.on_read = look
    occupied.open()
    with pytest.raises(errors.CallTimeoutError) as caught:
        late.result(PATIENCE)
    clock.on_read = None
    assert looked.is_set()
    assert (caught.value.stage, ran) == ("queue", [])
    patient = service.handle.with_options(timeout=None)
    for _ in range(service.slots):
        patient.echo()
    until(lambda: service.metrics.request_count == 3 * service.slots + 1)
    assert service.metrics.abandoned_count == 0


@pytest.mark.parametrize("what", ["task", "thread"])
def test_what_a_method_leaves_running_has_a_deadline_of_its_own(deploy, what):
    """Calls of a task or a thread that a method has left running do not inherit the deadline of that method's call."""

    class Leaving:
        async def leave_task(self):
            self.go = asyncio.Event()
            self.left = asyncio.create_task(self.call_later())

        async def call_later(self):
            await self.go.wait()
            return await self.ctx.service("svc").aio.echo("answer")

        async def leave_thread(self):
            self.go = threading.Event()
            self.left = asyncio.wrap_future(future_of(self.call_then, "left", context=copy_context()))

        def call_then(self):
            self.go.wait(PATIENCE)
            return self.ctx.service("svc").call("echo", "answer")

        async def answer(self):
            self.go.set()
            return await self.left

        def echo(self, value):
            return value

    clock = Jumping()
    handle = deploy("async", Leaving, timeout=1000, monitors=["metrics"], env_options={"clock": clock}).handle
    handle.call(f"leave_{what}")
    clock.ahead = 2000.0
    assert handle.call("answer") == "answer"


# -- where the limit comes from ----------------------------------------------------------------------------------------


def test_unknown_method_in_methods_is_refused(environments, probe):
    """A timeout for a method that the class does not have is an error that suggests the nearest name."""
    env = environments()
    config = ServiceDeploymentConfig(methods={"ecco": {"timeout": 1}})
    env.register_service_with_config("svc", probe, deployment_config=config)
    with pytest.raises(errors.PlanError, match="did you mean 'echo'"):
        env.deploy()


@pytest.mark.parametrize("days", [-1, 1])
def test_deadlines_do_not_follow_the_wall_clock(deploy, gate, monkeypatch, days):
    """Changing the machine's clock moves no deadline."""
    service = deploy("single")
    now = time.time
    waiting = service.handle.with_options(timeout=SHORT).submit("run", gate)
    patient = service.handle.with_options(timeout=1000).submit("echo", 1)
    gate.wait_entered()
    monkeypatch.setattr(time, "time", lambda: now() + days * 86_400)
    with pytest.raises(errors.CallTimeoutError):
        waiting.result(PATIENCE)
    gate.open()
    assert patient.result(PATIENCE) == 1
