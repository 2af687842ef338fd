"""
Test tools for services and plugins. The core never imports this package.

The conformance suites below are imported on first use. Import everything else from its module:

* `doubles.virtual_clock`: `VirtualClock`, whose time passes only when a test advances it.
* `doubles.fake_replica`: `FakeReplica`, which answers, hangs or dies in virtual time as a script says.
* `doubles.fake_candidate`: `FakeCandidate`, a replica as balancers see it. The test sets its load.
* `simulation`: `simulate` runs a service of your own configuration in virtual time.
* `simulation.simulation`: `Simulation` runs a router with fake replicas, callers and accidents, all from one seed, and
  checks the router's rules.
* `chaos.run`: `run` calls real services while accidents happen, and checks every call. Its command is `sage-deploy
  chaos`.
* `tools.fixtures`: the pytest fixture `sage_environment`, available in every pytest run.
* `tools.fakes`: `SageEnvironment`, which that fixture returns. A test can replace its services by fakes.
* `tools.leak_guard`: a pytest plugin that fails every test that leaves threads, files, tasks or processes.
* `tools.reentry`: interrupts a function at each of its lines, to call it again there or to switch threads.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.hookspecs import hookimpl
from sage_plugins.values import Command

if TYPE_CHECKING:
    from sage_deploy_testing.suites.autoscaler_conformance import AutoscalerConformance
    from sage_deploy_testing.suites.balancer_conformance import BalancerConformance
    from sage_deploy_testing.suites.monitor_conformance import MonitorConformance
    from sage_deploy_testing.suites.strategy_conformance import StrategyConformance
    from sage_deploy_testing.suites.target_conformance import TargetConformance

__all__ = [
    "AutoscalerConformance",
    "BalancerConformance",
    "MonitorConformance",
    "StrategyConformance",
    "TargetConformance",
]

_HOMES: Final = {
    "AutoscalerConformance": "suites.autoscaler_conformance",
    "BalancerConformance": "suites.balancer_conformance",
    "MonitorConformance": "suites.monitor_conformance",
    "StrategyConformance": "suites.strategy_conformance",
    "TargetConformance": "suites.target_conformance",
}

#: For each command: its module, and its line in `sage-deploy --help`.
_COMMANDS: Final = {
    "simulate": ("simulate", "Simulate a service of FILE in virtual time."),
    "chaos": ("chaos", "Call the services of FILE while accidents happen, and judge every call."),
}


def _show_comparisons() -> None:
    """Make pytest show the compared values when an assert of a case fails. Call it before the cases are imported."""
    import pkgutil

    import pytest

    names = [module.name for module in pkgutil.walk_packages(__path__, f"{__name__}.")]
    pytest.register_assert_rewrite(*(name for name in names if name not in sys.modules))


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    _show_comparisons()
    return getattr(import_module(f"{__name__}.{home}"), name)


def _load(module: str) -> Any:
    return import_module(f"{__name__}.commands.{module}").command


@hookimpl
def sage_register_commands() -> list[Command]:
    """Register the commands that test services."""
    return [Command(name, partial(_load, module), summary) for name, (module, summary) in _COMMANDS.items()]
