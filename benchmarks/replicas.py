"""
The cost of one replica among few or many: starting, scaling up and down, stopping, a call, and a choice.

    python benchmarks/replicas.py

Uses strategy `inline` on target `local`, which has no thread for a replica once it has started. If a cost grows in
proportion to the number of replicas, its share for each replica stays the same.
"""

from __future__ import annotations

import argparse
import gc
import time
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

from rounds import interleave, per_call
from table import goal, show

import sage_deploy_balancers
from sage_deploy_testing.doubles.fake_candidate import candidates
from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Where

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins import ServiceHandle

_SIZES = (64, 512, 2_048, 10_000)
_FEW, _MANY = 16, 1_024
_BALANCERS = ("round_robin", "random", "least_loaded", "power_of_two", "consistent_hash")
_CALLS = 3_000
_KEYS = 1_000
_LOADS = ("", ", loaded")


class Service:
    """The deployed service."""

    def echo(self, value: int) -> int:
        """Return *value*."""
        return value


def _deployed(env: Environment, name: str, replicas: int, **config: Any) -> None:
    deployment = ServiceDeploymentConfig(threading_strategy="inline", replicas=replicas, **config)
    env.register_service_with_config(name, Service, deployment_config=deployment)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def life(replicas: int) -> dict[str, float]:
    """Return the seconds of *replicas* replicas to start, for half of them to go and come back, and to stop."""
    gc.collect()
    with Environment("bench") as env:
        _deployed(env, "echo", replicas)
        return {
            "deploy": _seconds(env.deploy),
            "half of them go": _seconds(lambda: env.scale("echo", replicas // 2)),
            "and come again": _seconds(lambda: env.scale("echo", replicas)),
            "close": _seconds(env.close),
        }


def lives(sizes: tuple[int, ...], rounds: int) -> None:
    """Print the best time of *rounds* for each step, in ms and in us for each replica."""
    best: dict[int, dict[str, float]] = {}
    for _ in range(rounds):
        for size in sizes:
            found = life(size)
            best[size] = {step: min(took, best.get(size, found)[step]) for step, took in found.items()}
    print("replicas " + "".join(f"{step:>28}" for step in best[sizes[0]]))
    for size, steps in best.items():
        cells = (f"{took * 1e3:,.0f} ms, {took / size * 1e6:,.0f} us each" for took in steps.values())
        print(f"{size:>8} " + "".join(f"{cell:>28}" for cell in cells))


def _rate(service: ServiceHandle, *, keyed: bool) -> Callable[[], float]:
    """Return a function that measures the calls a second of a single caller. If *keyed*, each call has another key."""
    handles = cycle([service.with_options(key=key) for key in range(_KEYS)] if keyed else [service])
    return lambda: 1 / per_call(lambda: next(handles).call("echo", 1), _CALLS)


def calls(rounds: int) -> None:
    """Print the cost of a call for a single caller, among few and among many replicas."""
    with Environment("bench") as env:
        contenders: dict[str, Callable[[], float]] = {}
        for balancer in _BALANCERS:
            for replicas in (_FEW, _MANY):
                name = f"{balancer}-of-{replicas}".replace("_", "-")
                _deployed(env, name, replicas, load_balancer=balancer)
                contenders[f"{balancer} of {replicas}"] = _rate(env.service(name), keyed=balancer == "consistent_hash")
        measured = interleave(contenders, rounds)
    show("calls a second", measured, 1)
    for balancer in _BALANCERS:
        goal(measured, f"{balancer} of {_MANY}", f"{balancer} of {_FEW}", ">= 0.8")


def choices(rounds: int) -> None:
    """Print the cost of the choice alone, among idle replicas and among replicas with one call each."""
    registry = Registry.of(sage_deploy_balancers)
    contenders: dict[str, Callable[[], float]] = {}
    for balancer in _BALANCERS:
        for inflight in (0, 1):
            for replicas in (_FEW, _MANY):
                group = candidates(replicas, slots=4)
                for each in group:
                    each.inflight = inflight
                registration = registry.find("load balancer", balancer).registration
                options = None if registration.options is None else registration.options()()
                pick = registration.create(options, Where("echo", "bench")).picker(group)
                key = "user" if balancer == "consistent_hash" else None
                run = partial(pick, key, "echo")
                contenders[f"{balancer} of {replicas}{_LOADS[inflight]}"] = partial(per_call, run, _CALLS)
    measured = interleave(contenders, rounds)
    show("one choice (us)", measured)
    for balancer in _BALANCERS:
        for load in _LOADS:
            goal(measured, f"{balancer} of {_MANY}{load}", f"{balancer} of {_FEW}{load}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--replicas", type=int, nargs="*", default=_SIZES, metavar="N")
    asked = parser.parse_args()
    lives(tuple(asked.replicas), asked.rounds)
    calls(asked.rounds)
    choices(asked.rounds)


if __name__ == "__main__":
    main()
