"""
Calls and streams of strategy `async` against `run_coroutine_threadsafe` and bare queues, with all features on.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack
from queue import Queue, SimpleQueue
from typing import TYPE_CHECKING, Any

from rounds import interleave, per_call
from table import goal, rounds_asked, show
from workloads import gather

from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.call.stream import AHEAD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator

_ITEMS = 5_000


class Echo:
    """Coroutines and generators that do as little as possible."""

    async def echo(self, value: int) -> int:
        """Return *value*."""
        return value

    def count(self, number: int) -> Iterator[int]:
        """Yield the numbers below *number*."""
        yield from range(number)

    async def acount(self, number: int) -> AsyncIterator[int]:
        """Yield the numbers below *number*, asynchronously."""
        for value in range(number):
            yield value


async def echo(value: int) -> int:
    """Return *value*, as a plain coroutine function."""
    return value


class Loop:
    """A bare event loop in its own thread, for comparison."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def submit(self, value: int) -> Any:
        """Run `echo` on the loop."""
        return asyncio.run_coroutine_threadsafe(echo(value), self._loop)

    def call(self) -> Any:
        """Run `echo` on the loop and wait for it."""
        return self.submit(1).result()

    def acall(self) -> Awaitable[Any]:
        """Run `echo` on the loop. The result can be awaited on another loop."""
        return asyncio.wrap_future(self.submit(1))

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def through(queue: Any, number: int) -> Iterator[int]:
    """Return the numbers below *number*, which another thread puts into *queue*: the bare parts of a stream."""

    def produce() -> None:
        for value in range(number):
            queue.put(value)
        queue.put(None)

    threading.Thread(target=produce, daemon=True).start()
    return iter(queue.get, None)


def per_item(items: Callable[[int], Iterable[int]]) -> float:
    """Return the seconds for each item of a stream, including its start."""
    return per_call(lambda: _drain(items(_ITEMS)), 1) / _ITEMS


def _drain(items: Iterable[int]) -> None:
    number = 0
    for _ in items:
        number += 1
    assert number == _ITEMS


async def _one_by_one(call: Callable[[], Awaitable[Any]], number: int) -> None:
    for _ in range(number):
        await call()


async def _together(call: Callable[[], Awaitable[Any]], number: int) -> None:
    await asyncio.gather(*[call() for _ in range(number)])


async def _adrain(items: AsyncIterator[int]) -> None:
    number = 0
    async for _ in items:
        number += 1
    assert number == _ITEMS


def main() -> None:
    """Measure, and print a row for each goal."""
    rounds = rounds_asked(__doc__, 15)
    with ExitStack() as stack:
        env = stack.enter_context(Environment("bench"))
        for name, strategy in (("loop", "async"), ("thread", "single")):
            deployment = ServiceDeploymentConfig(threading_strategy=strategy, queue_size=25_000)
            env.register_service_with_config(name, Echo, deployment_config=deployment)
        env.deploy()
        ours, thread = env.service("loop"), env.service("thread")
        peer = Loop()
        stack.callback(peer.close)
        runner = stack.enter_context(asyncio.Runner())

        def on_loop(work: Callable[[], Coroutine[Any, Any, None]], number: int) -> Callable[[], float]:
            return lambda: per_call(lambda: runner.run(work()), 1) / number

        sequential = interleave(
            {
                "async": lambda: per_call(lambda: ours.call("echo", 1), 600),
                "threadsafe": lambda: per_call(peer.call, 600),
            },
            rounds * 3,
        )
        pipelined = interleave(
            {
                "async": lambda: gather(ours.submit, "echo"),
                "threadsafe": lambda: gather(peer.submit),
            },
            rounds,
        )
        awaited = interleave(
            {
                "acall": on_loop(lambda: _one_by_one(lambda: ours.acall("echo", 1), 600), 600),
                "wrap_future": on_loop(lambda: _one_by_one(peer.acall, 600), 600),
            },
            rounds * 3,
        )
        crowd = interleave(
            {
                "acall": on_loop(lambda: _together(lambda: ours.acall("echo", 1), 2_000), 2_000),
                "wrap_future": on_loop(lambda: _together(peer.acall, 2_000), 2_000),
            },
            rounds,
        )
        streams = interleave(
            {
                "stream, generator": lambda: per_item(lambda number: thread.stream("count", number)),
                "stream, asynchronous": lambda: per_item(lambda number: ours.stream("acount", number)),
                "astream, asynchronous": on_loop(lambda: _adrain(ours.astream("acount", _ITEMS)), _ITEMS),
                f"Queue({AHEAD})": lambda: per_item(lambda number: through(Queue(AHEAD), number)),
                "SimpleQueue": lambda: per_item(lambda number: through(SimpleQueue(), number)),
            },
            rounds,
        )
    show("a thread, one call after the other (us)", sequential)
    goal(sequential, "async", "threadsafe", "<= 0.7")
    show("a thread, submit 20,000, then gather (us)", pipelined)
    goal(pipelined, "threadsafe", "async", ">= 4")
    show("a coroutine, one call after the other (us)", awaited)
    goal(awaited, "acall", "wrap_future")
    show("a coroutine, gather 2,000 (us)", crowd)
    goal(crowd, "wrap_future", "acall")
    show(f"a stream of {_ITEMS:,} items (us an item)", streams)
    for name in streams:
        if "stream" in name:
            goal(streams, name, f"Queue({AHEAD})")
            goal(streams, name, "SimpleQueue")


if __name__ == "__main__":
    main()
