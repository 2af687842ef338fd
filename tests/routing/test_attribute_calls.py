"""
An attribute call behaves as its method does, a handle shows its methods, and a call that blocks an event loop warns.
"""

from __future__ import annotations

import asyncio
import inspect
import pydoc
import subprocess
import sys
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest

from sage_plugins import ServiceDeploymentConfig, errors
from sage_plugins.call.call import Call
from sage_plugins.call.stream_reader import AsyncServiceStream, ServiceStream

PATIENCE = 20.0
STRATEGIES = pytest.mark.parametrize("strategy", ["single", "pool", "async", "inline"])


class Shapes:
    """One method of each kind."""

    def get(self, key: str, *, default: int = 3) -> tuple[str, int]:
        """Give the key and the default."""
        return key, default

    async def fetch(self, key, *, default=3):
        """Return the key and the default from a coroutine."""
        await asyncio.sleep(0)
        return key, default

    def count(self, number):
        """Yield the numbers."""
        yield from range(number)

    async def acount(self, number):
        """Yield the numbers from an async generator."""
        for value in range(number):
            yield value

    @staticmethod
    def twice(value):
        return 2 * value

    @classmethod
    def named(cls, value):
        return cls.__name__, value

    def fail(self):
        raise KeyError("k")

    async def afail(self):
        raise KeyError("k")

    def run(self, function, /, *args):
        return function(*args)

    async def arun(self, function, /, *args):
        return await function(*args)

    def stop(self): ...

    def _hidden(self): ...


class Blocking:
    """Calls another service from its constructor, its hooks and its methods."""

    def __init__(self, when=""):
        self.when = when
        self.found = [self.ask("constructor")]

    def ask(self, where):
        return self.ctx.service("shapes").get(where) if where in self.when.split() else None

    async def setup(self):
        self.found.append(self.ask("setup"))

    def start_running(self):
        self.found.append(self.ask("start_running"))

    def plain(self):
        return self.ctx.service("shapes").get("plain")

    async def coroutine(self):
        return self.ctx.service("shapes").get("coroutine")

    async def well(self):
        return await self.ctx.service("shapes").fetch("well"), await self.ctx.service("shapes").aio.get("well")


@pytest.fixture
def shapes(deploy):
    """Deploys the service under a strategy and returns its handle."""
    return lambda strategy, **config: deploy(strategy, Shapes, **config).handle


async def awaited(make):
    return await make()


async def listed(items):
    return [item async for item in items]


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


# -- what a handle shows -----------------------------------------------------------------------------------------------

OWN = {"acall", "aio", "astream", "call", "start", "stream", "submit", "with_options"}
SERVED = {"get", "fetch", "count", "acount", "twice", "named", "fail", "afail", "run", "arun"}


@pytest.mark.parametrize("deployed", [False, True])
def test_dir_lists_the_served_methods_and_the_handles_own(env, deployed):
    """
    `dir` of a handle lists the served methods and its own, and `dir(handle.aio)` only the served ones.

    It deploys nothing.
    """
    env.register_service("shapes", Shapes)
    handle = env.service("shapes")
    if deployed:
        handle.get("k")
    assert {name for name in dir(handle) if not name.startswith("__")} == OWN | SERVED
    assert {name for name in dir(handle.aio) if not name.startswith("__")} == SERVED
    if not deployed:
        assert env.task("shapes").state == "pending"


@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("where", ["handle", "aio"])
def test_signature_and_help_are_the_methods_own(env, deployed, where):
    """A handle shows each method's own signature, without `self`, and its docstring."""
    env.register_service("shapes", Shapes)
    handle = env.service("shapes")
    if deployed:
        handle.get("k")
    shown = handle if where == "handle" else handle.aio
    for name in SERVED - {"twice", "named"}:
        parameters = list(inspect.signature(getattr(Shapes, name)).parameters.values())[1:]
        assert list(inspect.signature(getattr(shown, name)).parameters.values()) == parameters
    assert list(inspect.signature(shown.twice).parameters) == ["value"]
    assert list(inspect.signature(shown.named).parameters) == ["value"]
    assert inspect.signature(shown.get).return_annotation == inspect.signature(Shapes.get).return_annotation
    text = pydoc.plain(pydoc.render_doc(shown.get))
    assert "get(key: 'str', *, default: 'int' = 3)" in text
    assert "Give the key and the default." in text


def test_signature_is_not_read_before_somebody_asks(env, monkeypatch):
    """Looking up an attribute or calling it does not compute its signature."""
    env.register_service("shapes", Shapes)
    handle = env.service("shapes")
    handle.get("k")
    monkeypatch.setattr(inspect, "signature", lambda *_, **__: pytest.fail("a signature was read"))
    assert handle.fetch("k").result(PATIENCE) == ("k", 3)
    assert list(handle.count(1)) == [0]


@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("where", ["handle", "aio"])
def test_name_that_is_not_served_is_no_attribute(env, deployed, where):
    """A name that is not served raises MethodNotFoundError, an AttributeError, which suggests the nearest name."""
    env.register_service("shapes", Shapes)
    handle = env.service("shapes")
    if deployed:
        handle.get("k")
    shown = handle if where == "handle" else handle.aio
    with pytest.raises(errors.MethodNotFoundError, match="did you mean 'fetch'") as caught:
        _ = shown.fecth
    (text,) = traceback.format_exception_only(caught.value)
    assert text.lower().count("did you mean") == 1, "Python adds no guess of its own"
    assert not any(hasattr(shown, name) for name in ("stop", "_hidden", "nothing"))


@pytest.mark.parametrize("where", ["handle", "aio"])
def test_attributes_cannot_be_assigned(env, where):
    """Attributes of a handle can be neither assigned nor deleted; the error says why."""
    env.register_service("shapes", Shapes)
    shown = env.service("shapes") if where == "handle" else env.service("shapes").aio
    for name in ("get", "anything", "call", "_name"):
        with pytest.raises(AttributeError, match=f"takes no attributes of its own, such as '{name}'"):
            setattr(shown, name, 3)
        with pytest.raises(AttributeError, match="takes no attributes of its own"):
            delattr(shown, name)


# -- blocking an event loop --------------------------------------------------------------------------------------------


def blocking_calls(handle):
    """All ways to block the loop that runs this code."""
    return {
        "call": lambda: handle.call("get", "k"),
        "attribute": lambda: handle.get("k"),
        "stream": lambda: list(handle.stream("count", 2)),
        "generator": lambda: list(handle.count(2)),
    }


async def repeated(function):
    for _ in range(3):
        function()


def told(function):
    """Return the BlockingCallWarnings that *function* causes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [each for each in caught if each.category is errors.BlockingCallWarning]


@STRATEGIES
@pytest.mark.parametrize("way", ["call", "attribute", "stream", "generator"])
def test_blocking_an_event_loop_warns_once_a_handle(shapes, strategy, way):
    """The first call of a handle that blocks a loop warns. The warning names `aio`, `acall` and the caller's line."""
    handle = shapes(strategy)
    block = blocking_calls(handle)[way]
    assert told(block) == []
    (warning,) = told(lambda: asyncio.run(repeated(block)))
    assert "handle.aio." in str(warning.message)
    assert "acall" in str(warning.message)
    assert warning.filename == __file__
    again = blocking_calls(handle.with_options(timeout=5))[way]
    assert len(told(lambda: asyncio.run(repeated(again)))) == 1


def test_cells_of_a_notebook_may_block(shapes, monkeypatch):
    """Notebook cells may block their kernel's loop without a warning; loops in other threads still warn."""
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    block = blocking_calls(shapes("single"))["call"]
    assert told(lambda: asyncio.run(repeated(block))) == []
    with ThreadPoolExecutor() as pool:
        assert len(told(lambda: pool.submit(asyncio.run, repeated(block)).result(20))) == 1


@STRATEGIES
def test_what_does_not_block_does_not_warn(shapes, strategy):
    """`aio`, `acall`, `astream`, awaited coroutines and calls in other threads do not warn."""
    handle = shapes(strategy)

    async def main():
        await handle.aio.get("k")
        await handle.acall("get", "k")
        await handle.fetch("k")
        await listed(handle.acount(2))
        await listed(handle.astream("count", 2))
        await asyncio.to_thread(handle.get, "k")
        await handle.submit("get", "k")

    assert told(lambda: asyncio.run(main())) == []


def test_submit_that_waits_for_room_warns(deploy, probe, occupy):
    """`submit` warns if it waits for a full queue on a loop. If the warning is an error, no call is made."""
    service = deploy("single", probe, queue_size=0, timeout=0.05)
    gate = occupy(service)

    async def wait(error):
        with pytest.raises(error):
            service.handle.submit("echo", 1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(wait(errors.BlockingCallWarning))
    assert service.parked == 0
    service.handle = service.env.service("svc")
    assert len(told(lambda: asyncio.run(wait(errors.CallTimeoutError)))) == 1
    gate.open()


def test_deploying_in_a_coroutine_warns(env):
    """A first call that deploys the service on a loop warns and names `adeploy`."""
    env.register_service("shapes", Shapes)

    async def main():
        assert await env.service("shapes").fetch("k") == ("k", 3)

    (warning,) = told(lambda: asyncio.run(main()))
    assert "adeploy" in str(warning.message)
    assert told(lambda: asyncio.run(main())) == []


@STRATEGIES
def test_services_are_warned_only_if_others_wait_for_their_loop(environments, strategy):
    """
    Only a coroutine under `async` gets the warning, since it blocks other calls.

    Hooks and plain methods get none.
    """
    env = environments("both")
    env.register_service("shapes", Shapes)
    config = ServiceDeploymentConfig(threading_strategy=strategy)
    env.register_service_with_config("blocking", Blocking, "constructor setup start_running", deployment_config=config)
    assert told(env.deploy) == []
    handle = env.service("blocking")
    assert told(lambda: handle.call("plain")) == []
    assert told(lambda: handle.call("well")) == []
    assert len(told(lambda: handle.call("coroutine"))) == (strategy == "async")


def test_loop_of_a_service_method_is_a_loop_like_any(deploy):
    """A service method that runs its own loop and blocks it gets the warning."""
    env = deploy("single", Shapes).env

    def run(handle):
        asyncio.run(repeated(lambda: handle.get("k")))

    env.register_service("runs", Shapes)
    assert len(told(lambda: env.service("runs").run(run, env.service("svc")))) == 1


def test_asking_for_the_loop_imports_no_asyncio():
    """A program without coroutines never imports asyncio, whichever way it calls."""
    program = (
        "import sys\n"
        "from sage_plugins import Environment\n"
        "class Echo:\n"
        "    def echo(self, value): return value\n"
        "    def count(self): yield 1\n"
        "with Environment('plain') as env:\n"
        "    env.register_service('echo', Echo)\n"
        "    handle = env.service('echo')\n"
        "    assert (handle.echo(1), list(handle.count()), handle.submit('echo', 1).result()) == (1, [1], 1)\n"
        "    dir(handle)\n"
        "assert 'asyncio' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


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
