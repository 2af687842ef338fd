"""
Calls of replicas on target `process`, against process pools and a bare socket, interleaved.

`--only sequential pipelined ...` measures some parts. Parts are the functions named in `_PARTS`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pickle
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from bare_socket import bare_socket
from rounds import interleave, per_call
from table import goal, show
from workloads import from_threads, gather

from sage_plugins import Environment, ServiceDeploymentConfig, idempotent

if TYPE_CHECKING:
    from collections.abc import Callable

#: Number of calls submitted at once, and of threads that call one after the other.
_AT_ONCE, _CALLERS = 2_000, 8
#: Additions in a call that keeps a processor busy for about 20 ms, and number of such calls at once.
_ADDITIONS, _BUSY_CALLS = 400_000, 24


def echo(value: Any) -> Any:
    """Return *value*."""
    return value


def size(data: bytes) -> int:
    """Return the number of bytes of *data*."""
    return len(data)


def add(number: int) -> int:
    """Keep a processor busy."""
    return sum(range(number))


class Service:
    """The same functions as a service."""

    def echo(self, value: Any) -> Any:
        """Return *value*. A call may not run twice."""
        return value

    @idempotent
    def look(self, value: Any) -> Any:
        """Return *value*. A call may run twice."""
        return value

    def size(self, data: bytes) -> int:
        """Return the number of bytes."""
        return len(data)

    def add(self, number: int) -> int:
        """Keep a processor busy."""
        return sum(range(number))


class Contenders:
    """One process of each kind, and a service with one replica for each processor."""

    def __init__(self, stack: ExitStack) -> None:
        """Start all of them. They end with *stack*."""
        from loky import ProcessPoolExecutor as Loky

        spawn = multiprocessing.get_context("spawn")
        self.pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn))
        self.loky = stack.enter_context(Loky(1))
        self.cores = len(os.sched_getaffinity(0))
        self.pools = stack.enter_context(ProcessPoolExecutor(self.cores, mp_context=spawn))
        self.socket = stack.enter_context(bare_socket())
        env = stack.enter_context(Environment("benchmark"))
        for name, more in {
            "one": {"threading_strategy": "single"},
            "eight": {"threading_strategy": "pool", "thread_count": 8},
            "cores": {"threading_strategy": "single", "replicas": self.cores},
        }.items():
            config = ServiceDeploymentConfig(target="process", queue_size=100_000, **more)
            env.register_service_with_config(name, Service, deployment_config=config)
        env.deploy()
        self.one, self.eight, self.many = (env.service(name) for name in ("one", "eight", "cores"))
        for executor in (self.pool, self.loky, self.pools):
            executor.submit(echo, 1).result()


def sequential(of: Contenders, rounds: int) -> None:
    """One caller, one call at a time."""
    contenders = {
        "bare socket": lambda: pickle.loads(of.socket(pickle.dumps(1, 5))),  # noqa: S301 - its own data
        "ProcessPoolExecutor(1)": lambda: of.pool.submit(echo, 1).result(),
        "loky(1)": lambda: of.loky.submit(echo, 1).result(),
        "ours, call": lambda: of.one.echo(1),
        "ours, submit": lambda: of.one.submit("echo", 1).result(),
    }
    measured = interleave({name: partial(per_call, run, 300) for name, run in contenders.items()}, rounds)
    show("sequential, microseconds", measured)
    goal(measured, "ours, call", "ProcessPoolExecutor(1)", "at most 0.5")
    goal(measured, "ours, call", "bare socket")
    goal(measured, "ours, call", "loky(1)")


def pipelined(of: Contenders, rounds: int) -> None:
    """One caller that submits all calls, then collects all results."""
    contenders = {
        "ProcessPoolExecutor(1)": partial(of.pool.submit, echo),
        "loky(1)": partial(of.loky.submit, echo),
        "ours, one slot": partial(of.one.submit, "echo"),
        "ours, eight slots": partial(of.eight.submit, "echo"),
        "ours, idempotent": partial(of.one.submit, "look"),
    }
    rates = {name: lambda run=run: 1 / gather(run, number=_AT_ONCE) for name, run in contenders.items()}
    measured = interleave(rates, rounds)
    show("pipelined, calls a second", measured, 1)
    for ours in ("ours, one slot", "ours, eight slots", "ours, idempotent"):
        goal(measured, ours, "ProcessPoolExecutor(1)", "at least 5")


def callers(of: Contenders, rounds: int) -> None:
    """Eight threads, each with one call at a time."""
    contenders = {
        "ProcessPoolExecutor(1)": lambda: of.pool.submit(echo, 1).result(),
        "loky(1)": lambda: of.loky.submit(echo, 1).result(),
        "ours, eight slots": lambda: of.eight.echo(1),
        "ours, one slot": lambda: of.one.echo(1),
    }
    rates = {
        name: lambda run=run: 1 / from_threads(run, threads=_CALLERS, number=100) for name, run in contenders.items()
    }
    measured = interleave(rates, rounds)
    show("eight callers, calls a second", measured, 1)
    goal(measured, "ours, eight slots", "ProcessPoolExecutor(1)", "at least 3")


def large(of: Contenders, rounds: int) -> None:
    """An argument of 1 MiB, and of 64 MiB."""
    for mebibytes, number in ((1, 20), (64, 1)):
        data = bytes(mebibytes * 2**20)
        contenders = {
            "ProcessPoolExecutor(1)": lambda data=data: of.pool.submit(size, data).result(),
            "ours": lambda data=data: of.one.size(data),
        }
        measured = interleave({name: partial(per_call, run, number) for name, run in contenders.items()}, rounds)
        show(f"{mebibytes} MiB, milliseconds", measured, 1e3)
        goal(measured, "ours", "ProcessPoolExecutor(1)")


def busy(of: Contenders, rounds: int) -> None:
    """Calls that keep a processor busy, with one replica and with one for each processor."""

    def seconds(submit: Callable[[], Any]) -> float:
        start = time.perf_counter()
        for each in [submit() for _ in range(_BUSY_CALLS)]:
            each.result()
        return _BUSY_CALLS / (time.perf_counter() - start)

    contenders = {
        "one replica": lambda: of.one.submit("add", _ADDITIONS),
        "a replica for each": lambda: of.many.submit("add", _ADDITIONS),
        "ProcessPoolExecutor": lambda: of.pools.submit(add, _ADDITIONS),
    }
    measured = interleave({name: partial(seconds, run) for name, run in contenders.items()}, rounds)
    show(f"busy on {of.cores} processors, calls a second", measured, 1)
    goal(measured, "a replica for each", "one replica", f"at least {0.95 * of.cores:g}")
    goal(measured, "a replica for each", "ProcessPoolExecutor")


_PARTS = {part.__name__: part for part in (sequential, pipelined, callers, large, busy)}


def main() -> None:
    """Measure, and print a row for each goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=list(_PARTS), metavar="PART")
    asked = parser.parse_args()
    with ExitStack() as stack:
        contenders = Contenders(stack)
        for name in asked.only:
            _PARTS[name](contenders, asked.rounds)


if __name__ == "__main__":
    main()
