"""
The cost of services for a SAGE pipeline: SAGE's own layer, against the same environment with `attach`.

Prints the table of docs/performance.md. Needs the extra `[sage]`.
"""

from __future__ import annotations

import logging
import statistics
import threading
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

from rounds import interleave, ratio
from sage.foundation import MapFunction, SinkFunction, SourceFunction
from sage.runtime import LocalEnvironment
from sage.stream._runtime_kernel_types import StopSignal
from table import rounds_asked

from sage_deploy_sage import attach
from sage_plugins import ServiceDeploymentConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SAGE, OURS = "SAGE", "attach"

CALLS = 100
SLOW_S = 0.1
AT_ONCE = 8
NESTED_TIMEOUT_S = 1.0
ITEMS = 600


class Echo:
    """Answers at once."""

    def process(self, value: Any) -> Any:
        """Return *value*."""
        return value


class Slow:
    """Answers after a while."""

    def process(self, value: Any) -> Any:
        """Return *value*."""
        time.sleep(SLOW_S)
        return value


class Outer:
    """Answers with the reply of another service. It first waits until all slots are in use."""

    def process(self, value: Any) -> Any:
        """Return the other service's reply, or None if it times out."""
        time.sleep(SLOW_S)
        try:
            return self.ctx.call_service("inner", value, timeout=NESTED_TIMEOUT_S)  # type: ignore[attr-defined]
        except TimeoutError:
            return None


class Count(SourceFunction):  # type: ignore[misc]
    """Yields the numbers from 0 on."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self._left = list(reversed(range(last)))

    def execute(self, _data: Any = None) -> Any:
        """Return the next number, or the end."""
        return self._left.pop() if self._left else StopSignal("counted")


class Do(MapFunction):  # type: ignore[misc]
    """Runs a given function."""

    def __init__(self, what: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self._what = what

    def execute(self, data: Any) -> Any:
        """Call the function with this step and the item."""
        return self._what(self, data)


class Collect(SinkFunction):  # type: ignore[misc]
    """Puts items into a list."""

    def __init__(self, into: list[Any]) -> None:
        super().__init__()
        self._into = into

    def execute(self, data: Any) -> None:
        """Append the item."""
        self._into.append(data)


def environment(kind: str, **services: type) -> Any:
    """Return a SAGE environment with services. Ours have one thread for each concurrent call."""
    env = LocalEnvironment("benchmark")
    if kind == SAGE:
        for name, cls in services.items():
            env.register_service(name, cls)
        return env
    attached = attach(env)
    config = ServiceDeploymentConfig(threading_strategy="multi", thread_count=AT_ONCE)
    for name, cls in services.items():
        attached.register_service_with_config(name, cls, deployment_config=config)
    return attached


def batch(env: Any, what: Callable[[Any, Any], Any]) -> Any:
    """Return a step's result for one item. It uses a key, because SAGE's linear batches cannot call services."""
    into: list[Any] = []
    env.from_batch([0]).keyby(lambda _: 0).map(Do, what).sink(Collect, into)
    env.submit(autostop=True)
    env.close()
    (result,) = into
    return result


def noop(kind: str) -> float:
    """Return the median seconds of a call that does nothing, made in a pipeline."""

    def calls(function: Any, _item: Any) -> float:
        times = []
        for number in range(CALLS + 10):
            start = time.perf_counter()
            function.call_service("echo", number)
            times.append(time.perf_counter() - start)
        return statistics.median(times[10:])

    return float(batch(environment(kind, echo=Echo), calls))


def slow(kind: str) -> float:
    """Return the seconds until all of several concurrent slow calls are answered."""

    def calls(function: Any, _item: Any) -> float:
        start = time.perf_counter()
        for future in [function.call_service_async("slow", number) for number in range(AT_ONCE)]:
            future.result()
        return time.perf_counter() - start

    return float(batch(environment(kind, slow=Slow), calls))


def nested(kind: str) -> float:
    """Return how many concurrent calls are answered that each call another service."""

    def calls(function: Any, _item: Any) -> int:
        futures = [function.call_service_async("outer", number) for number in range(AT_ONCE)]
        return sum(future.result() is not None for future in futures)

    return float(batch(environment(kind, outer=Outer, inner=Echo), calls))


class Arrived(NamedTuple):
    """The items that left a stream."""

    items: int
    in_place: int


def stream(kind: str) -> Arrived:
    """Return how many items of a stream arrive if a step calls a service, and how many in the right order."""
    into: list[int] = []
    env = environment(kind, echo=Echo)
    env.from_source(Count, ITEMS, delay=0.001).map(Do, lambda function, item: function.call_service("echo", item)).sink(
        Collect, into
    )
    env.submit()
    for thread in threading.enumerate():
        if thread.name.startswith("sage-source-"):
            thread.join()
    env.close()
    return Arrived(len(into), sum(item == place for place, item in enumerate(into)))


def each(measure: Callable[[str], float], rounds: int) -> dict[str, list[float]]:
    """Measure both in every round."""
    return interleave({SAGE: lambda: measure(SAGE), OURS: lambda: measure(OURS)}, rounds)


def times(title: str, measured: Mapping[str, list[float]]) -> str:
    """Return a row of the table: milliseconds, and the ratio."""
    sage, ours = (statistics.median(measured[kind]) * 1e3 for kind in (SAGE, OURS))
    return f"| {title} | {sage:.3g} ms | {ours:.3g} ms | {ratio(measured, OURS, SAGE)[0]:.3g} |"


def counts(title: str, measured: Mapping[str, list[float]], of: int) -> str:
    """Return a row of the table: the lowest count of all rounds, and the ratio of the medians."""
    sage, ours = (min(measured[kind]) for kind in (SAGE, OURS))
    ratio_of_medians = statistics.median(measured[OURS]) / max(statistics.median(measured[SAGE]), 1)
    return f"| {title} | {sage:.0f} of {of} | {ours:.0f} of {of} | {ratio_of_medians:.3g} |"


def main() -> None:
    """Print the table."""
    rounds = rounds_asked(__doc__, 5)
    logging.disable(logging.CRITICAL)  # SAGE reports each lost stream with a traceback of a thousand frames
    lines = [
        times(f"a call that does nothing, median of {CALLS}", each(noop, rounds)),
        times(f"{AT_ONCE} calls of {SLOW_S * 1e3:.0f} ms at once, until all are answered", each(slow, rounds)),
        counts(f"{AT_ONCE} calls at once that call another service: answered", each(nested, rounds), AT_ONCE),
    ]
    streams = {kind: [stream(kind) for _ in range(rounds)] for kind in (SAGE, OURS)}
    for title, field in (("arrived", "items"), ("in their places", "in_place")):
        measured = {kind: [float(getattr(one, field)) for one in all_] for kind, all_ in streams.items()}
        lines.append(counts(f"{ITEMS} items of a stream whose step calls a service: {title}", measured, ITEMS))
    print(f"| in a pipeline | isage {version('isage')} alone | with `attach` | ratio |")
    print("| --- | --- | --- | --- |")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
