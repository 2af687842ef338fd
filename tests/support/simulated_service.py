"""Simulates a service with one method under a constant load, with plugins of ours and of strangers."""

from __future__ import annotations

import random
from typing import Any

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_testing.load_simulation.scenario.spelling import faults_of
from sage_deploy_testing.simulation import (
    Report,
    exponential,
    simulate,
)
from sage_plugins import hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration

GET = {"get": {"idempotent": True}}


class Strangers:
    """A third-party balancer and autoscaler. Both draw random numbers."""

    binding = False

    @hookimpl
    def sage_register_load_balancers(self) -> list[Registration]:
        return [Registration("last", lambda _options, _where: self, "The last replica")]

    @hookimpl
    def sage_register_autoscalers(self) -> list[Registration]:
        return [Registration("dice", lambda _options: self, "Any number")]

    @hookimpl
    def sage_register_targets(self) -> list[Registration]:
        return [Registration("far", lambda _options: self, "Far away", capabilities=frozenset({"replaces_unhealthy"}))]

    def picker(self, candidates: Any) -> Any:
        """as third-party code does"""
        return lambda _key, _method: random.choice(candidates[-2:])  # noqa: S311 - as strangers do

    def decide(self, _load: Any) -> float:
        return random.randint(1, 5)  # noqa: S311


def registry() -> Registry:
    """Return the first-party plugins and the third-party ones."""
    ours = (sage_deploy_local, sage_deploy_threading, sage_deploy_monitors, sage_deploy_balancers)
    return Registry.of(*ours, Strangers())


def play(config: dict[str, Any], rate: float = 100, until: float = 20, mean: float = 0.02, **more: Any) -> Report:
    """Simulate a service with one method under a constant load. *faults* is written as on the command line."""
    faults = more.pop("faults", "")
    keys = more.pop("keys", None)
    with simulate({"threading_strategy": "single", "methods": GET, **config}, **more) as sim:
        sim.time("get", exponential(mean))
        sim.load(rate=rate, until=until, method="get", keys=keys)
        for fault in faults_of(faults):
            sim.fault(fault)
        return sim.run()


def ended(report: Report) -> int:
    """Count the calls whose outcome is known."""
    return report.ok + report.errors + report.timeouts + report.died + report.rejected + report.stopped
