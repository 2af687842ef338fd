"""
The cost of one service among few or many: time and memory to deploy it, threads, and the call after a pause.

    python benchmarks/services.py

Each service has one replica on target `local`. Each measurement of memory runs in its own process, because a process
returns little memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rounds import interleave, per_call
from table import goal, show

from sage_plugins import Environment, ServiceDeploymentConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins import ServiceHandle

_SIZES = (100, 1_000, 3_000)
_STRATEGIES = ("single", "pool", "inline")
_IDLE_S = 5.0
_CALLS = 5_000
_PAGE_KIB = 4


class Service:
    """The deployed service."""

    def echo(self, value: int) -> int:
        """Return *value*."""
        return value


def _resident_kib() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_KIB


def _register(env: Environment, name: str, strategy: str, **config: Any) -> ServiceHandle:
    deployment = ServiceDeploymentConfig(threading_strategy=strategy, **config)
    env.register_service_with_config(name, Service, deployment_config=deployment)
    return env.service(name)


def _since(start: float) -> float:
    return time.perf_counter() - start


def measure(strategy: str, services: int) -> dict[str, float]:
    """Return the cost of each of *services* services in this process, which has deployed one before."""
    threads = threading.active_count()
    options = {strategy: {"idle_timeout": _IDLE_S}} if strategy != "inline" else {}
    with Environment("first") as first:
        _register(first, "first", strategy).call("echo", 1)
    with Environment("bench") as env:
        before, start, worked = _resident_kib(), time.perf_counter(), time.process_time()
        handles = [_register(env, f"service-{n}", strategy, options=options) for n in range(services)]
        env.deploy()
        found = {
            "deploy, us": _since(start) / services * 1e6,
            "its processor time, us": (time.process_time() - worked) / services * 1e6,
            "threads": threading.active_count() - threads,
            "memory, KiB": (_resident_kib() - before) / services,
        }
        start = time.perf_counter()
        for handle in handles:
            handle.call("echo", 1)
        found["first call, us"] = _since(start) / services * 1e6
        start = time.perf_counter()
        while threading.active_count() > threads and _since(start) < _IDLE_S + 60:
            time.sleep(0.05)
        found["threads when idle"] = threading.active_count() - threads
        found["memory when idle, KiB"] = (_resident_kib() - before) / services
        start = time.perf_counter()
        for handle in handles:
            handle.call("echo", 1)
        found["call after a pause, us"] = _since(start) / services * 1e6
        start = time.perf_counter()
    found["close, us"] = _since(start) / services * 1e6
    return found


def _measured_apart(strategy: str, services: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--alone", strategy, str(services)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def costs(strategies: tuple[str, ...], sizes: tuple[int, ...], rounds: int) -> None:
    """Print the median costs of each service, by strategy and number of services."""
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for strategy in strategies:
            for size in sizes:
                found.setdefault((strategy, size), []).append(_measured_apart(strategy, size))
    for (strategy, size), measured in found.items():
        print(f"{strategy}, {size} services, each:")
        for what in measured[0]:
            values = [each[what] for each in measured]
            print(f"  {what:<24} {statistics.median(values):10.1f}  [{min(values):.1f} .. {max(values):.1f}]")


def option(rounds: int) -> None:
    """Print the processor time of a call with and without `idle_timeout`, while the threads exist."""
    with Environment("bench") as env:
        contenders: dict[str, Callable[[], float]] = {}
        for strategy in ("single", "pool"):
            for idle_timeout in (None, 60.0):
                name = f"{strategy}-{'off' if idle_timeout is None else 'on'}"
                options = {strategy: {"idle_timeout": idle_timeout}}
                size = {"thread_pool_size": 4} if strategy == "pool" else {}
                service = _register(env, name, strategy, options=options, queue_size=2 * _CALLS, **size)
                contenders[f"{name}, one by one"] = _one_by_one(service)
                contenders[f"{name}, all at once"] = _all_at_once(service)
        measured = interleave(contenders, rounds)
    show("one call (us)", measured)
    for strategy in ("single", "pool"):
        for how in ("one by one", "all at once"):
            goal(measured, f"{strategy}-on, {how}", f"{strategy}-off, {how}", "<= 1.02")


def _one_by_one(service: ServiceHandle) -> Callable[[], float]:
    return lambda: per_call(lambda: service.call("echo", 1), _CALLS, time.process_time)


def _all_at_once(service: ServiceHandle) -> Callable[[], float]:
    slow = service.with_options(timeout=None)

    def run() -> float:
        start = time.process_time()
        for call in [slow.submit("echo", 1) for _ in range(_CALLS)]:
            call.result()
        return (time.process_time() - start) / _CALLS

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--services", type=int, nargs="*", default=_SIZES, metavar="N")
    parser.add_argument("--strategies", nargs="*", default=_STRATEGIES, metavar="ID")
    parser.add_argument("--alone", nargs=2, metavar=("STRATEGY", "N"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.alone is not None:
        strategy, services = asked.alone
        print(json.dumps(measure(strategy, int(services))))
        return
    costs(tuple(asked.strategies), tuple(asked.services), asked.rounds)
    option(3 * asked.rounds)


if __name__ == "__main__":
    main()
