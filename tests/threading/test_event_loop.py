"""The rules of strategy `async` beyond those of all strategies: one loop for coroutines, helper threads for methods."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from sage_plugins import Environment, ServiceDeploymentConfig, errors

PATIENCE = 20.0
#: These tests block the loop on purpose, so they ignore the warning.
BLOCKS_ON_PURPOSE = pytest.mark.filterwarnings("ignore::sage_plugins.errors.BlockingCallWarning")


class OnLoop:
    """Records the thread and the loop of each of its parts."""

    def __init__(self):
        self.where = {"constructor": (threading.current_thread(), asyncio.get_running_loop())}

    def note(self, what):
        self.where[what] = (threading.current_thread(), asyncio.get_running_loop())

    async def setup(self):
        self.note("setup")

    def start_running(self):
        self.note("start_running")

    def warmup(self):
        self.note("warmup")

    async def method(self):
        self.note("method")
        return {name: (thread.name, id(loop)) for name, (thread, loop) in self.where.items()}

    async def items(self):
        self.note("items")
        yield self.where["items"] == self.where["constructor"]

    def blocking(self):
        return threading.current_thread().name

    async def stop(self):
        self.note("stop")

    def cleanup(self):
        self.note("cleanup")
        STOPPED.append(self.where)


STOPPED = []


def test_constructor_hooks_and_coroutines_share_one_loop_and_its_thread(deploy):
    """Constructor, hooks and coroutines run on one loop and its thread."""
    service = deploy("async", OnLoop)
    assert len(set(service.handle.call("method").values())) == 1
    assert list(service.handle.stream("items")) == [True]
    service.env.close()
    assert len(set(STOPPED.pop().values())) == 1


def test_method_that_is_no_coroutine_runs_beside_the_loop(deploy):
    """A method that is no coroutine runs in another thread than the loop's."""
    service = deploy("async", OnLoop)
    assert service.handle.blocking() not in {name for name, _ in service.handle.call("method").values()}


def test_blocking_methods_never_hold_up_coroutines(deploy, probe, gates):
    """While blocking methods use all helper threads, coroutines still run."""
    service = deploy("async", probe, thread_pool_size=2, max_concurrency=9)
    held = [gates(), gates()]
    calls = [service.handle.submit("run", gate) for gate in held]
    for gate in held:
        gate.wait_entered()
    gate = gates()
    answer = service.handle.submit("arun", gate.acall, "answer")
    gate.wait_entered()
    gate.open()
    assert answer.result(PATIENCE) == "answer"
    assert not any(call.done() for call in calls)


def test_no_more_coroutines_at_once_than_max_concurrency(deploy, probe, gate):
    """At most `max_concurrency` coroutines run at once."""
    service = deploy("async", probe, max_concurrency=3)
    calls = [service.handle.submit("arun", gate.acall, number) for number in range(5)]
    gate.wait_entered(3)
    assert (service.waiting, gate.entered) == (2, 0)
    gate.open()
    assert [call.result(PATIENCE) for call in calls] == list(range(5))


def test_helper_threads_are_no_more_than_thread_pool_size(deploy, probe, gate):
    """At most `thread_pool_size` helper threads run methods."""
    service = deploy("async", probe, thread_pool_size=2, max_concurrency=9)
    calls = [service.handle.submit("run", gate, number) for number in range(4)]
    gate.wait_entered(2)
    assert service.metrics.active_threads == 3  # the loop's thread and two helpers
    assert gate.entered == 0
    gate.open()
    assert [call.result(PATIENCE) for call in calls] == list(range(4))


class Hanging:
    """A coroutine that refuses to be cancelled, and reports it."""

    def __init__(self, gate, ended):
        self.gate = gate
        self.ended = ended

    async def hang_on(self):
        while not self.gate.is_open:
            try:
                await self.gate.acall()
            except asyncio.CancelledError:
                self.ended.put("refused to end")

    async def echo(self, value):
        return value


@pytest.fixture
def ended():
    import queue

    return queue.SimpleQueue()


def test_coroutine_that_refuses_to_end_keeps_its_slot(deploy, gate, ended):
    """A coroutine that refuses to be cancelled keeps its slot until it ends."""
    service = deploy("async", Hanging, gate, ended, max_concurrency=1)
    call = service.handle.submit("hang_on")
    gate.wait_entered()
    assert call.cancel()
    assert ended.get(timeout=PATIENCE) == "refused to end"
    waiting = service.handle.submit("echo", 1)
    gate.wait_entered()
    assert (service.waiting, service.metrics.abandoned_count) == (1, 1)
    gate.open()
    assert waiting.result(PATIENCE) == 1


@BLOCKS_ON_PURPOSE
def test_coroutine_that_calls_its_own_service_and_blocks_the_loop_is_told_so(deploy):
    """A coroutine that blocks the loop for a call of its own service gets ReentrantCallError, which names `acall`."""

    class Calling:
        async def outer(self):
            return self.ctx.service("svc").call("inner")

        async def inner(self):
            return "never"

        async def well(self):
            return await self.ctx.service("svc").acall("inner")

    service = deploy("async", Calling)
    with pytest.raises(errors.ReentrantCallError, match="acall"):
        service.handle.call("outer")
    assert service.handle.call("well") == "never"


def test_tasks_that_a_service_leaves_behind_end_with_the_loop(deploy, ended):
    """Tasks that a service left running are cancelled when the loop ends."""

    class Untidy:
        async def leave(self):
            async def forever():
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    ended.put("ended")

            self.task = asyncio.create_task(forever())
            await asyncio.sleep(0)

    service = deploy("async", Untidy)
    service.handle.call("leave")
    service.env.close()
    assert ended.get(timeout=PATIENCE) == "ended"


def test_close_releases_calls_that_wait_for_a_helper_thread(deploy, probe, gate):
    """`close` ends calls that wait for a helper thread, even without a timeout."""
    service = deploy("async", probe, thread_pool_size=1, max_concurrency=3, timeout=None)
    held = service.handle.submit("run", gate)
    gate.wait_entered()
    waiting = [service.handle.submit("run", gate) for _ in range(2)]
    service.env.close(drain_timeout=0)
    for call in [held, *waiting]:
        with pytest.raises(errors.ServiceStoppedError):
            call.result(PATIENCE)
    gate.open()
    assert gate.entered == 0


@BLOCKS_ON_PURPOSE
@pytest.mark.parametrize("slots", [1, 5])
@pytest.mark.parametrize("way", ["call", "result", "started", "stream"])
def test_blocking_the_loop_for_a_call_that_needs_it_is_refused(deploy, way, slots):
    """
    Blocking the loop for a call that needs this loop raises ReentrantCallError, whatever stage the call has reached.
    """

    class Calling:
        async def outer(self, way):
            handle = self.ctx.service("svc")
            if way == "call":
                return handle.call("plain")
            if way == "stream":
                return list(handle.stream("items"))
            call = handle.submit("never")
            if way == "started":
                await asyncio.sleep(0)
            return call.result()

        def plain(self):
            return "plain"

        def items(self):
            yield "item"

        async def never(self):
            await asyncio.get_running_loop().create_future()

    service = deploy("async", Calling, max_concurrency=slots, timeout=1000)
    with pytest.raises(errors.ReentrantCallError, match="acall"):
        service.handle.call("outer", way)


@pytest.mark.parametrize("way", ["call", "result", "stream"])
def test_waiting_in_another_thread_does_not_block_the_loop(deploy, way):
    """A coroutine may wait for a call of its own service in a thread, since this leaves the loop free."""

    class Calling:
        async def outer(self, way):
            handle = self.ctx.service("svc")
            if way == "call":
                return await asyncio.to_thread(handle.call, "inner")
            if way == "stream":
                return await asyncio.to_thread(lambda: next(handle.stream("items")))
            return await asyncio.to_thread(handle.submit("inner").result)

        async def inner(self):
            return "answer"

        async def items(self):
            yield "answer"

    assert deploy("async", Calling, timeout=PATIENCE).handle.call("outer", way) == "answer"


def test_waiting_on_the_loop_for_what_a_thread_does_already_is_no_deadlock(deploy, gate):
    """Blocking the loop for a call that a thread already runs is no deadlock."""

    class Calling:
        async def outer(self, gate):
            call = self.ctx.service("svc").submit("plain", gate)
            await asyncio.to_thread(gate.wait_entered)
            gate.open()
            return call.result()

        def plain(self, gate):
            return gate("answer")

    assert deploy("async", Calling).handle.call("outer", gate) == "answer"


def test_stop_hooks_run_even_if_the_loop_gets_no_turn_until_everybody_has_given_it_up(deploy, ended, monkeypatch):
    """Stop hooks run even if the loop is blocked until `close` has given up waiting."""

    class Slow:
        async def loop(self):
            return asyncio.get_running_loop(), threading.current_thread()

        def stop(self):
            ended.put("stopped")

    for grace in ("sage_plugins.host.host._STUCK_GRACE_S", "sage_plugins.deployment.replicas.stopper._LAST_GRACE_S"):
        monkeypatch.setattr(grace, 0.01)
    service = deploy("async", Slow)
    loop, thread = service.handle.call("loop")
    held, goes_on = threading.Event(), threading.Event()
    select = loop._selector.select

    def held_up(timeout=None):
        events = select(timeout)
        held.set()
        goes_on.wait(PATIENCE)
        return events

    loop._selector.select = held_up
    while not held.wait(0.01):  # until the loop is held up by another event, before the hooks' event comes
        loop.call_soon_threadsafe(lambda: None)
    service.env.close(0)
    goes_on.set()
    thread.join(PATIENCE)
    assert ended.get_nowait() == "stopped"


def test_what_is_scheduled_while_a_task_is_made_runs():
    """A callback scheduled by a finalizer while a task is created still runs."""

    class Scheduler:
        def __init__(self, loop, ran):
            self.loop, self.ran, self.own = loop, ran, self

        def __del__(self):
            self.loop.call_soon(self.ran.append, None)

    class Maker:
        def __init__(self):
            self.made, self.ran = 0, []

        async def make(self):
            Scheduler(asyncio.get_running_loop(), self.ran)
            self.made += 1

        async def counts(self):
            gc.collect()
            await asyncio.sleep(0)
            return self.made, len(self.ran)

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        with Environment("soon") as env:
            config = ServiceDeploymentConfig(threading_strategy="async")
            env.register_service_with_config("maker", Maker, deployment_config=config)
            for _ in range(500):
                env.service("maker").call("make")
            made, ran = env.service("maker").call("counts")
    finally:
        gc.set_threshold(*threshold)
    assert made == ran == 500
