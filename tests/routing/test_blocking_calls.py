"""A call that blocks an event loop warns once a handle; one that does not block does not warn."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest

from sage_plugins import ServiceDeploymentConfig, errors
from shapes import STRATEGIES, Shapes, listed


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
