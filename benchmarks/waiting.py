"""Many calls that mostly wait, like database calls: the share of the ideal throughput that remains."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from rounds import interleave, per_call
from table import goal, rounds_asked, show
from workloads import from_threads, gather

from sage_plugins import Environment, ServiceDeploymentConfig

if TYPE_CHECKING:
    from collections.abc import Callable

_WAIT_S = 0.005
_AT_ONCE = 64
_WAVES = 40


class Waiting:
    """Waits, then returns its argument."""

    def wait(self, value: int) -> int:
        """Hold the thread while waiting."""
        time.sleep(_WAIT_S)
        return value

    async def await_(self, value: int) -> int:
        """Hold only a slot of the loop while waiting."""
        await asyncio.sleep(_WAIT_S)
        return value


def _share(run: Callable[[], float]) -> Callable[[], float]:
    """Return the share of the ideal throughput, 64 calls in 5 ms. *run* measures the seconds for each call."""
    return lambda: _WAIT_S / _AT_ONCE / run()


def _gather(submit: Callable[..., Any], *first: Any) -> Callable[[], float]:
    return _share(lambda: gather(submit, *first, number=_AT_ONCE * _WAVES))


async def _tasks() -> None:
    async def one_by_one() -> None:
        for value in range(_WAVES):
            await Waiting().await_(value)

    await asyncio.gather(*[one_by_one() for _ in range(_AT_ONCE)])


def main() -> None:
    """Measure, and print a row for each goal."""
    rounds = rounds_asked(__doc__, 15)
    with ExitStack() as stack:
        env = stack.enter_context(Environment("bench"))
        limits = {"pool": {"thread_count": _AT_ONCE}, "async": {"max_concurrency": _AT_ONCE}}
        for strategy, limit in limits.items():
            deployment = ServiceDeploymentConfig(threading_strategy=strategy, queue_size=10_000, **limit)
            env.register_service_with_config(strategy, Waiting, deployment_config=deployment)
        env.deploy()
        executor = stack.enter_context(ThreadPoolExecutor(_AT_ONCE))
        runner = stack.enter_context(asyncio.Runner())
        plain = Waiting()

        def in_bare_threads() -> float:
            return from_threads(lambda: plain.wait(1), threads=_AT_ONCE, number=_WAVES)

        def in_bare_tasks() -> float:
            return per_call(lambda: runner.run(_tasks()), 1) / (_AT_ONCE * _WAVES)

        measured = interleave(
            {
                "pool": _gather(env.service("pool").submit, "wait"),
                "executor": _gather(executor.submit, plain.wait),
                "bare threads": _share(in_bare_threads),
                "async": _gather(env.service("async").submit, "await_"),
                "bare tasks": _share(in_bare_tasks),
            },
            rounds,
        )
    show(f"share of the ideal throughput, {_AT_ONCE} calls in {_WAIT_S * 1e3:g} ms (goal >= 0.92)", measured, 1)
    goal(measured, "pool", "executor")
    goal(measured, "pool", "bare threads")
    goal(measured, "async", "bare tasks")


if __name__ == "__main__":
    main()
