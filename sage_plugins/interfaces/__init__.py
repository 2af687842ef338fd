"""
The interfaces between the core and its plugins: targets, strategies, balancers, monitors and the rest.

All are protocols, so a plugin does not have to inherit from anything. Callables that run for every call are plain
attributes: fetch them once and call them often. This package imports a name at its first use.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # type checkers know it by its name

if TYPE_CHECKING:
    from sage_plugins.interfaces.autoscalers import Autoscaler, Load
    from sage_plugins.interfaces.balancers import (
        Balancer,
        Candidate,
        KeyedBalancer,
        ObservingBalancer,
        Picker,
    )
    from sage_plugins.interfaces.control import ControlOp
    from sage_plugins.interfaces.extensions import Extension
    from sage_plugins.interfaces.families import Families, Family
    from sage_plugins.interfaces.monitors import (
        CallCounter,
        CallSurrounder,
        MetricsExporter,
        Monitor,
        QuietMonitor,
        Recorder,
        RecorderFactory,
        ServiceWatcher,
        SnapshotMerger,
        WatchedReplica,
        WatchedService,
    )
    from sage_plugins.interfaces.operations import LogLine, MethodError, Operations, RecordedEvent
    from sage_plugins.interfaces.reach import (
        DetachingTarget,
        EarlierReplica,
        EarlierService,
        EnvironmentView,
        Keeper,
        KeptReplica,
        KeptService,
        KnownService,
        Reach,
        ReachableService,
        ReachableTarget,
    )
    from sage_plugins.interfaces.sources import ConfigEntry, ConfigReader, ConfigSource
    from sage_plugins.interfaces.strategies import LoopSeat, Runner, Seat, Strategy
    from sage_plugins.interfaces.targets import (
        DetachableReplica,
        KillableReplica,
        LifeEvents,
        ListingTarget,
        NodeView,
        QuietEvents,
        ReachableReplica,
        Replica,
        ReplicaEvents,
        ReplicaHolds,
        SlotEvents,
        Surroundings,
        Target,
        WaitingReplica,
        Work,
    )

__all__ = [
    "Autoscaler",
    "Balancer",
    "CallCounter",
    "CallSurrounder",
    "Candidate",
    "ConfigEntry",
    "ConfigReader",
    "ConfigSource",
    "ControlOp",
    "DetachableReplica",
    "DetachingTarget",
    "EarlierReplica",
    "EarlierService",
    "EnvironmentView",
    "Extension",
    "Families",
    "Family",
    "Keeper",
    "KeptReplica",
    "KeptService",
    "KeyedBalancer",
    "KillableReplica",
    "KnownService",
    "LifeEvents",
    "ListingTarget",
    "Load",
    "LogLine",
    "LoopSeat",
    "MethodError",
    "MetricsExporter",
    "Monitor",
    "NodeView",
    "ObservingBalancer",
    "Operations",
    "Picker",
    "QuietEvents",
    "QuietMonitor",
    "Reach",
    "ReachableReplica",
    "ReachableService",
    "ReachableTarget",
    "RecordedEvent",
    "Recorder",
    "RecorderFactory",
    "Replica",
    "ReplicaEvents",
    "ReplicaHolds",
    "Runner",
    "Seat",
    "ServiceWatcher",
    "SlotEvents",
    "SnapshotMerger",
    "Strategy",
    "Surroundings",
    "Target",
    "WaitingReplica",
    "WatchedReplica",
    "WatchedService",
    "Work",
]

_HOMES = {
    "Autoscaler": "autoscalers",
    "Balancer": "balancers",
    "CallCounter": "monitors",
    "CallSurrounder": "monitors",
    "Candidate": "balancers",
    "ConfigEntry": "sources",
    "ConfigReader": "sources",
    "ConfigSource": "sources",
    "ControlOp": "control",
    "DetachingTarget": "reach",
    "DetachableReplica": "targets",
    "KillableReplica": "targets",
    "EarlierReplica": "reach",
    "EarlierService": "reach",
    "EnvironmentView": "reach",
    "Extension": "extensions",
    "Families": "families",
    "Family": "families",
    "Keeper": "reach",
    "KeptReplica": "reach",
    "KeptService": "reach",
    "KnownService": "reach",
    "KeyedBalancer": "balancers",
    "Load": "autoscalers",
    "LogLine": "operations",
    "LoopSeat": "strategies",
    "LifeEvents": "targets",
    "ListingTarget": "targets",
    "MetricsExporter": "monitors",
    "Monitor": "monitors",
    "MethodError": "operations",
    "NodeView": "targets",
    "ObservingBalancer": "balancers",
    "Operations": "operations",
    "Picker": "balancers",
    "RecordedEvent": "operations",
    "QuietEvents": "targets",
    "QuietMonitor": "monitors",
    "Reach": "reach",
    "ReachableService": "reach",
    "ReachableTarget": "reach",
    "Recorder": "monitors",
    "RecorderFactory": "monitors",
    "ReachableReplica": "targets",
    "Replica": "targets",
    "ReplicaEvents": "targets",
    "ReplicaHolds": "targets",
    "Runner": "strategies",
    "Seat": "strategies",
    "ServiceWatcher": "monitors",
    "SlotEvents": "targets",
    "SnapshotMerger": "monitors",
    "Strategy": "strategies",
    "Surroundings": "targets",
    "Target": "targets",
    "WaitingReplica": "targets",
    "WatchedReplica": "monitors",
    "WatchedService": "monitors",
    "Work": "targets",
}


if not TYPE_CHECKING:  # a type checker that sees `__getattr__` accepts misspelt names

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value  # the next access does not call this function
        return value
