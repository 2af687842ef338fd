"""Steps, services and runners for SAGE pipelines."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from sage.foundation import MapFunction, SinkFunction, SourceFunction
from sage.stream._runtime_kernel_types import StopSignal

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds after which an expected event counts as missing.
PATIENCE: Final = 20.0


class Count(SourceFunction):
    """A source of the numbers from 1 to *last*."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self._last = last
        self._given = 0

    def execute(self, data: Any = None) -> Any:
        if self._given == self._last:
            return StopSignal("counted")
        self._given += 1
        return self._given


class Do(MapFunction):
    """A step that calls a function with itself and the item."""

    def __init__(self, what: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self._what = what

    def execute(self, data: Any) -> Any:
        return self._what(self, data)


class Collect(SinkFunction):
    """The end of a pipeline: fills a list, and sets an event when it has *expected* items."""

    def __init__(self, into: list[Any], expected: int = 0, full: threading.Event | None = None) -> None:
        super().__init__()
        self._into = into
        self._expected = expected
        self._full = full

    def execute(self, data: Any) -> None:
        self._into.append(data)
        if self._full is not None and len(self._into) == self._expected:
            self._full.set()


class Doubler:
    def process(self, value: int) -> int:
        return 2 * value


class Recorder:
    """A service that records what happens to it."""

    def __init__(self, said: list[Any]) -> None:
        self._said = said
        self._calls = 0
        said.append("init")

    def process(self, value: Any) -> Any:
        self._calls += 1
        return (value, self._calls)

    def setup(self) -> None:
        self._said.append("setup")

    def start(self) -> None:
        self._said.append("start")

    def stop(self) -> None:
        self._said.append("stop")

    def cleanup(self) -> None:
        self._said.append("cleanup")


#: What a `Recorder` records in a whole life.
LIFE: Final = ["init", "setup", "start", "stop", "cleanup"]


def run_batch(env: Any, items: list[Any], what: Callable[[Any, Any], Any], *, keyed: bool = False) -> list[Any]:
    """
    Run a batch to its end. Return the items that arrived.

    A linear pipeline runs in several threads, on SAGE's stages. One with a key runs in the calling thread.
    """
    env.pipeline.clear()
    into: list[Any] = []
    stream = env.from_batch(items)
    if keyed:
        stream = stream.keyby(lambda _: 0)
    stream.map(Do, what).sink(Collect, into)
    env.submit(autostop=True)
    return into


def start_stream(env: Any, count: int, what: Callable[[Any, Any], Any]) -> tuple[list[Any], threading.Event]:
    """Start a stream of the numbers from 1 to *count*. Return the list they arrive in, and an event for all of them."""
    into: list[Any] = []
    full = threading.Event()
    env.from_source(Count, count, delay=0.001).map(Do, what).sink(Collect, into, count, full)
    env.submit()
    return into, full


def call(function: Any, item: Any) -> Any:
    return function.call_service("svc", item)
