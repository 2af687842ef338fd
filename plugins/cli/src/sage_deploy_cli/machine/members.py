"""Checks whether an object has the members that an interface of the core requires."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from sage_plugins import interfaces

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

__all__ = ["faults_of", "interfaces_of"]

#: The interface that each kind of plugin implements.
_INTERFACES: Mapping[str, type] = {
    "target": interfaces.Target,
    "threading strategy": interfaces.Strategy,
    "load balancer": interfaces.Balancer,
    "monitor": interfaces.Monitor,
    "autoscaler": interfaces.Autoscaler,
    "extension": interfaces.Extension,
    "file reader": interfaces.ConfigReader,
}

#: The further interface that an object must have if its registration declares the capability.
_OPTIONAL: Mapping[str, Mapping[str, type]] = {
    "load balancer": {"names_key": interfaces.KeyedBalancer, "observes": interfaces.ObservingBalancer},
    "monitor": {
        "exports_metrics": interfaces.MetricsExporter,
        "merges_counts": interfaces.SnapshotMerger,
        "watches_service": interfaces.ServiceWatcher,
    },
}

#: Interfaces that the core also uses without the capability, if the object has their members.
_LOOKED_FOR: Collection[type] = (interfaces.MetricsExporter, interfaces.SnapshotMerger, interfaces.ServiceWatcher)


def interfaces_of(created: object, kind: str, capabilities: Collection[str]) -> list[type]:
    """Return the protocols that the core uses on *created*, an object of this *kind* with these *capabilities*."""
    optional = [
        each
        for capability, each in _OPTIONAL.get(kind, {}).items()
        if capability in capabilities or (each in _LOOKED_FOR and isinstance(created, each))
    ]
    return [_INTERFACES[kind], *optional]


def faults_of(created: object, interface: type) -> Iterator[str]:
    """
    Yield one text for each member or parameter that *created* lacks of the protocol *interface*.

    Types are not compared: type checkers do that.
    """
    for name, member in _members(interface):
        if not hasattr(created, name):
            yield f"has no {_shape(name, member)}"
        elif inspect.isfunction(member) and not _takes(getattr(created, name), member):
            yield f"has a {name} with other parameters than {_shape(name, member)}"


def _members(interface: type) -> Iterator[tuple[str, Any]]:
    """Yield the public members that a protocol declares or inherits from other protocols."""
    seen = set()
    for cls in interface.__mro__:
        if getattr(cls, "_is_protocol", False) and cls.__name__ != "Protocol":
            for name in [*vars(cls).get("__annotations__", {}), *vars(cls)]:
                if not name.startswith("_") and name not in seen:
                    seen.add(name)
                    yield name, vars(cls).get(name)


def _shape(name: str, member: object) -> str:
    if not inspect.isfunction(member):
        return name
    parameters = list(inspect.signature(member).parameters.values())[1:]
    return f"{name}({', '.join(str(each.replace(annotation=each.empty)) for each in parameters)})"


def _takes(method: object, member: Any) -> bool:
    """Whether *method* accepts the core's call: positional arguments, and keyword-only ones by name."""
    if not callable(method):
        return False
    parameters = list(inspect.signature(member).parameters.values())[1:]
    by_name = {each.name: None for each in parameters if each.kind is each.KEYWORD_ONLY}
    try:
        inspect.signature(method).bind(*(None for each in parameters if each.name not in by_name), **by_name)
    except TypeError:
        return False
    except ValueError:  # a method in C without a signature
        return True
    return True
