"""
What plugins implement and what they get: targets, strategies, balancers, monitors, and the reach of other processes.

All are protocols, so a plugin need not inherit from anything. Callables that are used for every call are plain
attributes: fetch them once, call them often. Imports the root modules; a name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # type checkers know it by its name

if TYPE_CHECKING:
    from sage_plugins.interfaces.balancers import Balancer, Candidate, Picker
    from sage_plugins.interfaces.monitors import Monitor, Recorder, WatchedReplica, WatchedService
    from sage_plugins.interfaces.reach import (
        Directory,
        EarlierReplica,
        EarlierService,
        Entrance,
        Keeper,
        Reach,
        ReachableService,
    )
    from sage_plugins.interfaces.strategies import Runner, Seat, Strategy
    from sage_plugins.interfaces.targets import ControlOp, Replica, ReplicaEvents, Target, Work

__all__ = [
    "Balancer",
    "Candidate",
    "ControlOp",
    "Directory",
    "EarlierReplica",
    "EarlierService",
    "Entrance",
    "Keeper",
    "Monitor",
    "Picker",
    "Reach",
    "ReachableService",
    "Recorder",
    "Replica",
    "ReplicaEvents",
    "Runner",
    "Seat",
    "Strategy",
    "Target",
    "WatchedReplica",
    "WatchedService",
    "Work",
]

_HOMES = {
    "Balancer": "balancers",
    "Candidate": "balancers",
    "ControlOp": "targets",
    "Directory": "reach",
    "EarlierReplica": "reach",
    "EarlierService": "reach",
    "Entrance": "reach",
    "Keeper": "reach",
    "Monitor": "monitors",
    "Picker": "balancers",
    "Reach": "reach",
    "ReachableService": "reach",
    "Recorder": "monitors",
    "Replica": "targets",
    "ReplicaEvents": "targets",
    "Runner": "strategies",
    "Seat": "strategies",
    "Strategy": "strategies",
    "Target": "targets",
    "WatchedReplica": "monitors",
    "WatchedService": "monitors",
    "Work": "targets",
}


if not TYPE_CHECKING:  # to a checker that sees it, every misspelt name is one that it may give

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value  # so that the next access does not come here
        return value
