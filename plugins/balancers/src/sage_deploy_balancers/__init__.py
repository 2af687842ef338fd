"""Load balancers `round_robin` and `least_loaded`: who gets the next call."""

from __future__ import annotations

from typing import Any

from sage_plugins.hookspecs import hookimpl
from sage_plugins.values import Registration

__all__ = ["sage_register_load_balancers"]


def _create_round_robin(_options: None) -> Any:
    from sage_deploy_balancers.round_robin import RoundRobin  # imported here, as below: keeps discovery cheap

    return RoundRobin()


def _create_least_loaded(_options: None) -> Any:
    from sage_deploy_balancers.least_loaded import LeastLoaded

    return LeastLoaded()


@hookimpl
def sage_register_load_balancers() -> list[Registration]:
    """Offer `round_robin` and `least_loaded`."""
    return [
        Registration("round_robin", _create_round_robin, "Each replica in turn"),
        Registration("least_loaded", _create_least_loaded, "The replica with the fewest calls; in turn among equals"),
    ]
