"""
What helps to test services and plugins; nothing of the core uses it, and each part is imported by itself.

* `BalancerConformance`, `MonitorConformance`, `StrategyConformance`, `TargetConformance`: cases that every plugin of
  the kind passes; its tests inherit them.
* `sage_plugins.testing.virtual_clock`: `VirtualClock`, time that passes only when a test says so.
* `sage_plugins.testing.fake_replica`: `FakeReplica`, which answers, hangs or dies in virtual time as a script says.
* `sage_plugins.testing.fake_candidate`: `FakeCandidate`, a replica as balancers see it, whose load a test sets.
* `sage_plugins.testing.reentry`: interrupts a function at each of its lines, to enter it again or to switch threads.
* `sage_plugins.testing.simulation`: `Simulation`, a router with such replicas, callers and accidents, from one seed.
* `sage_plugins.testing.leak_guard`: a pytest plugin that fails every test which leaves threads, files, tasks or
  processes.
"""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sage_plugins.testing.balancer_conformance import BalancerConformance
    from sage_plugins.testing.monitor_conformance import MonitorConformance
    from sage_plugins.testing.strategy_conformance import StrategyConformance
    from sage_plugins.testing.target_conformance import TargetConformance

__all__ = ["BalancerConformance", "MonitorConformance", "StrategyConformance", "TargetConformance"]

_HOMES: Final = {
    "BalancerConformance": "balancer_conformance",
    "MonitorConformance": "monitor_conformance",
    "StrategyConformance": "strategy_conformance",
    "TargetConformance": "target_conformance",
}


def _show_comparisons() -> None:
    """Have pytest show, in whoever's run, what the asserts of a case compared; has an effect before their import."""
    import pytest

    names = [f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)]
    pytest.register_assert_rewrite(*(name for name in names if name not in sys.modules))


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    _show_comparisons()
    return getattr(import_module(f"{__name__}.{home}"), name)
