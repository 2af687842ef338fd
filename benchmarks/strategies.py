"""
Throughput of each threading strategy for five kinds of load, against the ideal for the work itself.

    python benchmarks/strategies.py            # print the table
    python benchmarks/strategies.py --write    # put it into docs/guides/choosing-a-strategy.md too

Each cell is a rate of calls divided by the ideal rate for that kind. The ideal is measured in the same round with the
bare method, without a service. `CALLERS` threads make the calls, each one after the other; in one row, `COROUTINES`
coroutines do. Takes less than a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rounds import interleave, ratio

from sage_plugins import Environment, ServiceDeploymentConfig, batch_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sage_plugins import ServiceHandle

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "guides" / "choosing-a-strategy.md"
START, END = "<!-- strategies:start -->", "<!-- strategies:end -->"

#: Number of calling threads, and of threads that a strategy may have.
CALLERS: Final = 16
#: Number of calling coroutines in the row of that name, and of coroutines that `async` may run at once.
COROUTINES: Final = 64
#: Seconds for which each cell is measured in each round.
WINDOW_S: Final = 0.2
#: Seconds that waiting methods wait: long compared to a call, and short enough for many in a window.
WAIT_S: Final = 0.005
#: The same for the coroutines. It is longer, because more of them share the time of one thread.
LONG_WAIT_S: Final = 0.02
#: Steps of the method that computes: about a millisecond on machines of 2024.
STEPS: Final = 20_000


class Kinds:
    """One method for each kind of work."""

    def wait(self) -> None:
        """Wait as for a database. The interpreter's lock is free meanwhile."""
        time.sleep(WAIT_S)

    def compute(self) -> int:
        """Run Python code, which holds the interpreter's lock."""
        total = 0
        for step in range(STEPS):
            total += step
        return total

    async def await_(self, seconds: float) -> None:
        """Wait as a coroutine."""
        await asyncio.sleep(seconds)

    def look_up(self, key: int) -> int:
        """Answer one call. It costs as much as many."""
        return self.look_up_many([key])[0]

    @batch_of("look_up")
    def look_up_many(self, keys: list[int]) -> list[int]:
        """Answer many calls with one wait."""
        time.sleep(WAIT_S)
        return keys


WAITING: Final = f"waiting, `def`, {CALLERS} calls at once"
AWAITING: Final = f"waiting, `async def`, {CALLERS} calls at once"
MANY: Final = f"waiting, `async def`, {COROUTINES} calls at once"
COMPUTING: Final = f"computing in Python, {CALLERS} calls at once"
BATCHED: Final = f"one wait for a batch, `batch_size: {CALLERS}`"

#: The calls of each row of the table.
CALLS: Final = {
    WAITING: ("wait",),
    AWAITING: ("await_", WAIT_S),
    MANY: ("await_", LONG_WAIT_S),
    COMPUTING: ("compute",),
    BATCHED: ("look_up", 1),
}

#: Settings that let each strategy run as many calls at once as there are callers.
STRATEGIES: Final[dict[str, dict[str, Any]]] = {
    "single": {},
    "multi": {"thread_count": CALLERS},
    "pool": {"thread_pool_size": CALLERS},
    "async": {"max_concurrency": COROUTINES, "thread_pool_size": CALLERS},
    "inline": {},
}


def rate(call: Callable[[], object], callers: int) -> float:
    """Return the calls a second of *callers* threads that call one after the other for `WINDOW_S`."""
    barrier = threading.Barrier(callers)

    def body() -> tuple[float, int]:
        barrier.wait()
        start, number = time.perf_counter(), 0
        while time.perf_counter() < start + WINDOW_S:
            call()
            number += 1
        return start, number

    with ThreadPoolExecutor(callers) as executor:
        counts = [executor.submit(body) for _ in range(callers)]
        results = [count.result() for count in counts]
    return sum(number for _, number in results) / (time.perf_counter() - min(start for start, _ in results))


async def rate_of_coroutines(call: Callable[[], Awaitable[object]]) -> float:
    """Return the calls a second of `COROUTINES` coroutines that call one after the other for `WINDOW_S`."""
    start, number = time.perf_counter(), 0

    async def body() -> None:
        nonlocal number
        while True:
            await call()
            number += 1

    tasks = [asyncio.create_task(body()) for _ in range(COROUTINES)]
    await asyncio.wait(tasks, timeout=WINDOW_S)
    elapsed = time.perf_counter() - start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return number / elapsed


def ideals(kinds: Kinds) -> dict[str, Callable[[], float]]:
    """
    Return functions that measure the highest possible calls a second for each row of the table.

    For waiting methods, all callers could wait at once. For computing ones, it is what the calling threads reach alone.
    """

    def awaiting(number: int, seconds: float) -> float:
        async def back_to_back(times: int = 10) -> float:
            start = time.perf_counter()
            for _ in range(times):
                await kinds.await_(seconds)
            return times / (time.perf_counter() - start)

        return number * asyncio.run(back_to_back())

    return {
        WAITING: lambda: CALLERS * rate(kinds.wait, 1),
        AWAITING: partial(awaiting, CALLERS, WAIT_S),
        MANY: partial(awaiting, COROUTINES, LONG_WAIT_S),
        COMPUTING: lambda: rate(kinds.compute, CALLERS),
        BATCHED: lambda: CALLERS * rate(partial(kinds.look_up_many, [1]), 1),
    }


def rates(service: ServiceHandle, strategy: str) -> dict[str, Callable[[], float]]:
    """Return functions that measure *service* for each row of the table, by strategy and row."""

    def of_kind(kind: str, call: tuple[Any, ...]) -> float:
        if kind == MANY:
            return asyncio.run(rate_of_coroutines(partial(service.acall, *call)))
        return rate(partial(service.call, *call), CALLERS)

    return {f"{strategy} {kind}": partial(of_kind, kind, call) for kind, call in CALLS.items()}


def measure(rounds: int) -> str:
    """Return the table as Markdown."""
    load, *_ = os.getloadavg()
    with Environment("strategies") as env:
        contenders: dict[str, Callable[[], float]] = dict(ideals(Kinds()))
        for strategy, fields in STRATEGIES.items():
            config = ServiceDeploymentConfig(threading_strategy=strategy, batch_size=CALLERS, **fields)
            env.register_service_with_config(f"s-{strategy}", Kinds, deployment_config=config)
            contenders |= rates(env.service(f"s-{strategy}"), strategy)
        env.deploy()
        measured = interleave(contenders, rounds)
    lines = ["| service | " + " | ".join(f"`{strategy}`" for strategy in STRATEGIES) + " |"]
    lines.append("| --- |" + " ---: |" * len(STRATEGIES))
    for kind in CALLS:
        cells = []
        for strategy in STRATEGIES:
            middle, low, high = ratio(measured, f"{strategy} {kind}", kind)
            print(f"  {kind:<40} {strategy:<7} {middle:.2f}  [{low:.2f} .. {high:.2f}]", file=sys.stderr)
            cells.append(f"{middle:.2f}")
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    machine = f"{os.cpu_count()} processors, {platform.python_implementation()} {platform.python_version()}"
    lines += ["", f"{machine}, {platform.system()}; medians of {rounds} rounds; load average {load:.1f} before them."]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the table into the guide")
    arguments = parser.parse_args()
    table = measure(arguments.rounds)
    print(table)
    if arguments.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{START}\n\n{table}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
