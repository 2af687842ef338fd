"""
Whether memory grows under mixed calls at a steady rate: in this process, and in the process of each replica.

    python benchmarks/soak.py --minutes 30 --where local process

Services with several strategies get calls of all kinds, with arguments of 1 B to 1 MiB. The resident memory of each
process is read after a garbage collection. Its slope after the warm-up is the Theil-Sen estimate: the median of the
slopes between all pairs of readings. The exit status is 1 if a call ended in an unexpected way.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import sys
import threading
import time
from array import array
from collections import Counter
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from private_ray import private_ray
from soak_bare import BareHandle
from soak_services import Coroutines, Failed, Plain, Reading, read

from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.errors import CallCancelledError, CallTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sage_plugins import ServiceHandle

_LARGEST: Final = 2**20
_GATHERED, _ITEMS, _KEYS = 8, 6, 64
#: Seconds: the short timeout, and the duration of a method that exceeds it.
_SHORT_S, _LONG_S = 0.01, 0.03
#: Maximum growth in MiB an hour, and seconds between two readings.
_GOAL, _READ_EVERY_S = 1.0, 10.0
_SHOWN: Final = 12
_PARTS: Final = 6
_PAUSE: Final = threading.Event()

_STRATEGIES: Final[dict[str, dict[str, Any]]] = {
    "single": {"threading_strategy": "single"},
    "pool": {"threading_strategy": "pool", "thread_pool_size": 3},
    "async": {"threading_strategy": "async", "max_concurrency": 8},
    "batched": {"threading_strategy": "pool", "thread_pool_size": 2, "batch_size": 4, "batch_wait": 0.005},
    "keyed": {"threading_strategy": "single", "replicas": 2, "load_balancer": "consistent_hash"},
}
_TARGETS: Final[dict[str, dict[str, Any]]] = {
    "bare": {},  # no sage-deploy: pools of threads
    "local": {},
    "process": {"target": "process"},
    "ray": {"target": "remote_any", "cpu_cores": 0.1},
}


# -- the calls ---------------------------------------------------------------------------------------------------------


class Caller:
    """
    A thread that makes calls of all kinds at a given rate, and checks how each ends.

    Attributes:
        counts: Number of calls by kind.
        wrong: Number of calls that ended in an unexpected way, by kind and error.
    """

    def __init__(self, name: str, handle: ServiceHandle, loop: asyncio.AbstractEventLoop, rate: float) -> None:
        """Start the thread. *loop* runs in another one."""
        self.counts: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self._handle, self._short = handle, handle.with_options(timeout=_SHORT_S)
        self._loop, self._rate = loop, rate
        self._drawn = random.Random(name)  # noqa: S311 - not for secrets
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name=f"caller-{name}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Make no more calls, and wait for the last one."""
        self._stop.set()
        self._thread.join()

    def _go_on(self) -> None:
        kinds: list[Callable[[], int]] = [
            self.plain,
            self.keyed,
            self.gathered,
            self.awaited,
            self.streamed,
            self.stream_left,
            self.stream_awaited,
            self.cancelled,
            self.task_cancelled,
            self.timed_out,
            self.raising,
        ]
        due = time.monotonic()
        while not self._stop.is_set():
            kind = self._drawn.choice(kinds)
            try:
                made = kind()
            except Exception as error:  # noqa: BLE001 - every error goes into the report
                made = 1
                self.wrong[f"{kind.__name__}: {type(error).__name__}: {error}"[:200]] += 1
            self.counts[kind.__name__] += made
            due = max(due + made / self._rate, time.monotonic() - 1.0)  # longer delays are not made up for
            self._stop.wait(max(0.0, due - time.monotonic()))

    def _data(self) -> bytes:
        return self._drawn.randbytes(1) * int(_LARGEST ** self._drawn.random())

    def plain(self) -> int:
        """A call."""
        data = self._data()
        assert self._handle.call("size", data) == len(data)
        return 1

    def keyed(self) -> int:
        """A call with a key, through a new handle."""
        data = self._data()
        handle = self._handle.with_options(key=self._drawn.randrange(_KEYS))
        assert handle.call("echo", data) == data
        return 1

    def gathered(self) -> int:
        """Calls that are all submitted before the first result is read."""
        data = [self._data() for _ in range(_GATHERED)]
        futures = [self._handle.submit("echo", each) for each in data]
        assert [each.result() for each in futures] == data
        return _GATHERED

    def awaited(self) -> int:
        """Calls from an event loop."""
        data = [self._data() for _ in range(_GATHERED)]

        async def run() -> list[Any]:
            return list(await asyncio.gather(*(self._handle.acall("echo", each) for each in data)))

        assert self._on_loop(run()) == data
        return _GATHERED

    def streamed(self) -> int:
        """A stream that is read to its end."""
        data = self._data()
        assert list(self._handle.stream("items", data, _ITEMS)) == [data] * _ITEMS
        return 1

    def stream_left(self) -> int:
        """A stream that is closed after its first item."""
        data = self._data()
        stream = self._handle.stream("items", data, _ITEMS)
        assert next(stream) == data
        stream.close()
        return 1

    def stream_awaited(self) -> int:
        """A stream that an event loop reads."""
        data = self._data()

        async def run() -> list[Any]:
            return [each async for each in self._handle.astream("items", data, _ITEMS)]

        assert self._on_loop(run()) == [data] * _ITEMS
        return 1

    def cancelled(self) -> int:
        """Running and waiting calls that are cancelled."""
        futures = [self._handle.submit("take", _LONG_S) for _ in range(3)]
        for future in reversed(futures):
            future.cancel()
        for future in futures:
            if not future.cancelled():
                with suppress(CallCancelledError):
                    future.result()
        return 3

    def task_cancelled(self) -> int:
        """A call whose task is cancelled."""

        async def run() -> None:
            task = asyncio.ensure_future(self._handle.acall("take", _LONG_S))
            await asyncio.sleep(_SHORT_S)
            task.cancel()
            await asyncio.wait([task])

        self._on_loop(run())
        return 1

    def timed_out(self) -> int:
        """A call that exceeds its timeout."""
        try:
            self._short.call("take", _LONG_S)
        except CallTimeoutError:
            return 1
        msg = "it was answered"
        raise AssertionError(msg)

    def raising(self) -> int:
        """A call whose method raises."""
        data = self._data()
        error = self._handle.submit("fail", data).exception()
        assert isinstance(error, Failed)
        assert error.args == (len(data),)
        return 1

    def _on_loop(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


# -- the processes -----------------------------------------------------------------------------------------------------


class Watched:
    """
    A process whose memory is read regularly.

    Attributes:
        name: Its name in the report.
    """

    def __init__(self, name: str, ask: Callable[[bool], Reading]) -> None:
        """Use *ask* for readings. Its argument says whether to count objects by type."""
        self.name = name
        self._ask = ask
        # Arrays, so that the recorded values hardly affect the measured memory.
        self._hours, self._mib, self._given_out, self._blocks = array("d"), array("d"), array("d"), array("d")
        self._types: list[dict[str, int]] = []

    @property
    def readings(self) -> int:
        """The number of readings."""
        return len(self._hours)

    def note(self, *, last: bool) -> None:
        """Take a reading."""
        found = self._ask(last or not self._types)
        if found.types:
            self._types.append(found.types)
        self._hours.append(time.monotonic() / 3600)
        self._mib.append(found.resident / 2**20)
        self._given_out.append(found.given_out / 2**20)
        self._blocks.append(found.blocks)

    def report(self) -> None:
        """Print the findings."""
        mib, part = self._mib, -(-len(self._mib) // _PARTS)
        low, middle, high = slope(self._hours, mib)
        verdict = "met" if middle <= _GOAL else "NOT MET"
        print(f"  {self.name:<18} {middle:+7.2f} [{low:+.2f} .. {high:+.2f}] MiB an hour: {verdict}")
        medians = "  ".join(f"{statistics.median(mib[at : at + part]):.1f}" for at in range(0, len(mib), part))
        print(f"    medians of its parts, MiB: {medians}")
        given_out, blocks = slope(self._hours, self._given_out)[1], slope(self._hours, self._blocks)[1]
        print(f"    of that in use, an hour: {given_out:+.2f} MiB, and {blocks:+.0f} small objects")
        grown = Counter(self._types[-1])
        grown.subtract(self._types[0])
        more = ", ".join(f"{number} {name}" for name, number in grown.most_common(_SHOWN) if number > 0)
        print(f"    more objects: {more or 'none'}")


def slope(times: Sequence[float], values: Sequence[float]) -> tuple[float, float, float]:
    """
    Return how fast *values* grow.

    Returns:
        Lower bound, median slope between all pairs (Theil-Sen), and upper bound. The bounds are a confidence interval
        of 95 %, if errors of the readings are independent (Sen 1968).
    """
    pairs = itertools.combinations(zip(times, values, strict=True), 2)
    slopes = sorted((after - before) / (later - sooner) for (sooner, before), (later, after) in pairs)
    number = len(times)
    spread = 1.96 * (number * (number - 1) * (2 * number + 5) / 18) ** 0.5
    first = max(0, round((len(slopes) - spread) / 2))
    return slopes[first], statistics.median(slopes), slopes[len(slopes) - 1 - first]


def _ask(handle: ServiceHandle, trim: bool, types: bool) -> Reading:  # noqa: FBT001 - called by position
    found: Reading = handle.call("read", types=types, trim=trim)
    return found


def _replicas(name: str, handle: ServiceHandle, *, trim: bool) -> Iterator[Watched]:
    """Yield one `Watched` for each process of a service. Each key belongs to one replica."""
    keyed = [handle.with_options(key=key, timeout=60) for key in range(_KEYS)]
    pids: dict[int, partial[Reading]] = {}
    for each in keyed:
        ask = partial(_ask, each, trim)
        pids.setdefault(ask(types=False).pid, ask)
    for number, ask in enumerate(pids.values()):
        yield Watched(f"{name}#{number}", ask)


def deployed(env: Environment, names: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """Deploy the services of *names*: name, where, strategy. Gives what calls each, by name."""
    bare = {name: BareHandle(Plain()) for name, where, _ in names if where == "bare"}
    for name, where, strategy in names:
        if name not in bare:
            config = ServiceDeploymentConfig(**{"timeout": 30.0, **_STRATEGIES[strategy], **_TARGETS[where]})
            cls = Coroutines if strategy == "async" else Plain
            env.register_service_with_config(name, cls, deployment_config=config)
    env.deploy()
    return {name: bare.get(name) or env.service(name) for name, *_ in names}


def soak(stack: ExitStack, asked: argparse.Namespace) -> bool:
    """Call and read until the time is over. Return whether all calls ended as expected."""
    env = stack.enter_context(Environment("soak"))
    names = [(f"{where}-{strategy}", where, strategy) for where in asked.where for strategy in _STRATEGIES]
    handles = deployed(env, names)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="loop", daemon=True).start()
    watched = [Watched("this process", lambda types: read(types=types, trim=asked.trim))]
    for name, where, _ in names:
        if where not in {"bare", "local"}:
            watched += _replicas(name, handles[name], trim=asked.trim)
    rate = asked.rate / len(names)
    callers = [Caller(name, handles[name], loop, rate) for name, _, _ in names]
    began = time.monotonic()
    _PAUSE.wait(60 * asked.warm_up)
    until = began + 60 * asked.minutes
    while True:
        due = time.monotonic() + _READ_EVERY_S
        last = due > until
        for each in watched:
            each.note(last=last)
        if last:
            break
        _PAUSE.wait(max(0.0, due - time.monotonic()))
    for caller in callers:
        caller.end()
    loop.call_soon_threadsafe(loop.stop)
    counts = sum((caller.counts for caller in callers), Counter[str]())
    wrong = sum((caller.wrong for caller in callers), Counter[str]())
    took = time.monotonic() - began
    print(f"{' and '.join(asked.where)}: {counts.total()} calls in {took / 60:.0f} minutes, {dict(counts)}")
    print(f"  otherwise than they had to ended {wrong.total()}")
    for text, number in wrong.most_common(_SHOWN):
        print(f"    {number} times {text}")
    print(f"  memory after {asked.warm_up:g} minutes, {watched[0].readings} readings (goal <= {_GOAL:g} MiB an hour)")
    for each in watched:
        each.report()
    return not wrong


def main() -> None:
    """Run the soak and print the findings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--minutes", type=float, default=30, help="in all; default: %(default)s")
    parser.add_argument("--warm-up", type=float, default=5, metavar="MINUTES", help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=300, help="calls a second in all; default: %(default)s")
    trim = "before each reading have the C library give back what it keeps for later"
    parser.add_argument("--trim", action="store_true", help=trim)
    where = ("local", "process")
    parser.add_argument("--where", nargs="+", choices=_TARGETS, default=where, help="default: local process")
    asked = parser.parse_args()
    with ExitStack() as stack:
        if "ray" in asked.where:
            stack.enter_context(private_ray(8))
        fine = soak(stack, asked)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
