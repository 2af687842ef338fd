"""An attribute call behaves as its method does, every call can be awaited, and `aio` never blocks an event loop."""

from __future__ import annotations

import asyncio

import pytest

from sage_plugins import ServiceDeploymentConfig, errors
from sage_plugins.call.call import Call
from sage_plugins.call.stream_reader import AsyncServiceStream, ServiceStream
from shapes import STRATEGIES, Shapes, awaited, listed

PATIENCE = 20.0


# -- the shape of the method -------------------------------------------------------------------------------------------


@STRATEGIES
@pytest.mark.parametrize("bound", [False, True])
def test_attribute_call_has_the_shape_of_its_method(shapes, strategy, bound):
    """
    A plain method returns its value, a coroutine a call, a generator an iterator, an async generator an async iterator.
    """
    handle = shapes(strategy)
    if bound:
        handle.call("get", "k")
    assert handle.get("k", default=4) == ("k", 4)
    assert isinstance(handle.fetch("k"), Call)
    assert handle.fetch("k", default=4).result(PATIENCE) == ("k", 4)
    numbers = handle.count(3)
    assert isinstance(numbers, ServiceStream)
    assert list(numbers) == [0, 1, 2]
    numbers = handle.acount(3)
    assert isinstance(numbers, AsyncServiceStream)
    assert asyncio.run(listed(numbers)) == [0, 1, 2]


@STRATEGIES
def test_call_of_a_coroutine_is_awaited(shapes, strategy):
    """A coroutine's call can be awaited on a running loop, many at once, and raises the method's exception."""
    handle = shapes(strategy)

    async def main():
        assert await handle.fetch("k") == ("k", 3)
        assert await asyncio.gather(*map(handle.fetch, "abc")) == [("a", 3), ("b", 3), ("c", 3)]
        with pytest.raises(KeyError, match="k"):
            await handle.afail()

    asyncio.run(main())


@STRATEGIES
def test_shape_is_known_before_the_service_is_deployed(env, strategy):
    """The handle knows each method's kind from the class, before the first call deploys the service."""
    config = ServiceDeploymentConfig(threading_strategy=strategy)
    for method, expected in {"get": ("k", 3), "fetch": ("k", 3), "count": [0, 1]}.items():
        env.register_service_with_config(method, Shapes, deployment_config=config)
        answer = getattr(env.service(method), method)(2 if method == "count" else "k")
        found = list(answer) if method == "count" else answer.result(PATIENCE) if method == "fetch" else answer
        assert found == expected


def test_shape_follows_the_class_that_is_deployed_again(env):
    """
    After the service was registered again with another class, its existing handles have the methods of that class.
    """

    class Newer:
        async def get(self, key):
            return key

        def fresh(self):
            return "fresh"

    env.register_service("svc", Shapes)
    handle = env.service("svc")
    assert [handle.get("k") for _ in range(2)] == [("k", 3), ("k", 3)]
    env.drain("svc")
    env.register_service("svc", Newer)
    assert handle.fresh() == "fresh"
    assert handle.get("k").result(PATIENCE) == "k"
    with pytest.raises(AttributeError, match="serves no method 'fetch'"):
        _ = handle.fetch


def test_call_of_a_coroutine_waits_for_room_only_without_a_loop(deploy, probe, occupy, in_thread, until):
    """With a full queue, an attribute call of a coroutine blocks its caller's thread, but never an event loop."""
    service = deploy("single", probe, queue_size=0)
    gate = occupy(service)

    async def value():
        return "value"

    async def main():
        call = service.handle.arun(value)
        assert not call.done()
        gate.open()
        return await call

    assert asyncio.run(main()) == "value"
    gate = occupy(service)
    waiting = in_thread(lambda: service.handle.arun(value))
    until(lambda: service.parked == 1)
    assert not waiting.done()
    gate.open()
    assert waiting.result(PATIENCE).result(PATIENCE) == "value"


# -- every call is awaitable -------------------------------------------------------------------------------------------


@STRATEGIES
def test_every_call_is_awaitable(shapes, strategy):
    """Every call can be awaited, more than once: it returns the result or raises the method's exception."""
    handle = shapes(strategy)
    calls = [handle.submit("get", "k"), handle.submit("fail")]

    async def main():
        for _ in range(2):
            assert await calls[0] == ("k", 3)
            with pytest.raises(KeyError, match="k"):
                await calls[1]

    asyncio.run(main())


@pytest.mark.parametrize("strategy", ["single", "pool", "async"])
def test_cancelling_the_awaiting_task_cancels_the_call(deploy, probe, occupy, strategy):
    """If the task that awaits a call is cancelled, a call that has not started is cancelled."""
    service = deploy(strategy, probe)
    gate = occupy(service)
    call = service.handle.submit("echo", 1)

    async def main():
        task = asyncio.ensure_future(call)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert call.cancelled()
    gate.open()


def test_awaited_call_ends_at_its_deadline(deploy, probe, occupy):
    """A call that is awaited ends at its deadline."""
    service = deploy("single", probe)
    occupy(service)
    call = service.handle.with_options(timeout=0.03).submit("echo", 1)
    with pytest.raises(errors.CallTimeoutError):
        asyncio.run(awaited(lambda: call))


# -- aio ---------------------------------------------------------------------------------------------------------------


@STRATEGIES
@pytest.mark.parametrize("bound", [False, True])
def test_aio_is_always_awaitable(shapes, strategy, bound):
    """`aio` calls of functions and coroutines can be awaited; `aio` calls of generators are async iterators."""
    handle = shapes(strategy)
    if bound:
        handle.call("get", "k")

    async def main():
        assert await handle.aio.get("k", default=4) == ("k", 4)
        assert await handle.aio.fetch("k", default=4) == ("k", 4)
        assert await listed(handle.aio.count(3)) == [0, 1, 2]
        assert await listed(handle.aio.acount(3)) == [0, 1, 2]
        assert await asyncio.create_task(handle.aio.twice(2)) == 4

    asyncio.run(main())


@pytest.mark.parametrize("strategy", ["single", "pool", "async"])
def test_aio_never_blocks_the_loop(deploy, probe, occupy, strategy):
    """With a full queue, an `aio` call suspends its task; the loop goes on."""
    service = deploy(strategy, probe, queue_size=0)
    gate = occupy(service)

    async def main():
        tasks = [asyncio.create_task(service.handle.aio.echo(number)) for number in range(3)]
        items = asyncio.create_task(listed(service.handle.aio.items(2)))
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in (*tasks, items))
        gate.open()
        return [*await asyncio.gather(*tasks), await items]

    assert asyncio.run(main()) == [0, 1, 2, [0, 1]]


def test_aio_does_not_block_the_loop_while_the_service_is_deployed(env, gate):
    """An `aio` call that deploys the service does not block the loop meanwhile."""

    class Slow(Shapes):
        def __init__(self, gate):
            gate()

    env.register_service("slow", Slow, gate)
    handle = env.service("slow")

    async def main():
        call = asyncio.create_task(handle.aio.get("k"))
        await asyncio.to_thread(gate.wait_entered)
        assert not call.done()
        gate.open()
        return await call

    assert asyncio.run(main()) == ("k", 3)


def test_aio_keeps_the_options_of_its_handle(deploy, probe, occupy):
    """`handle.with_options(...).aio` keeps these options."""
    service = deploy("single", probe)
    occupy(service)
    with pytest.raises(errors.CallTimeoutError):
        asyncio.run(awaited(lambda: service.handle.with_options(timeout=0.03).aio.echo(1)))


# -- proxies of SAGE ---------------------------------------------------------------------------------------------------


@STRATEGIES
def test_proxies_of_sage_wait_whatever_the_kind_of_the_method(deploy, strategy):
    """`call_service` waits for a coroutine's result as for a plain method's; `call_service_async` returns a future."""
    env = deploy(strategy, Shapes).env
    for method in ("get", "fetch"):
        assert env.call_service("svc", "k", method=method) == ("k", 3)
        assert getattr(env.call_service["svc"], method)("k") == ("k", 3)
        assert env.call_service_async("svc", "k", method=method).result(PATIENCE) == ("k", 3)
        assert getattr(env.call_service_async["svc"], method)("k").result(PATIENCE) == ("k", 3)
        assert env.task("svc").call_method(method, "k") == ("k", 3)
