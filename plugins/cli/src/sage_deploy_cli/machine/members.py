"""Whether an object has what an interface of the core asks for."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from sage_plugins import interfaces

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

__all__ = ["faults_of", "interfaces_of"]

#: The interface of what each kind of registration creates.
_INTERFACES: Mapping[str, type] = {
    "target": interfaces.Target,
    "threading strategy": interfaces.Strategy,
    "load balancer": interfaces.Balancer,
    "monitor": interfaces.Monitor,
    "autoscaler": interfaces.Autoscaler,
    "extension": interfaces.Extension,
    "file reader": interfaces.ConfigReader,
}

#: The interface that an object has besides if its registration declares the capability.
_OPTIONAL: Mapping[str, Mapping[str, type]] = {
    "load balancer": {"names_key": interfaces.KeyedBalancer, "observes": interfaces.ObservingBalancer},
    "monitor": {
        "exports_metrics": interfaces.MetricsExporter,
        "merges_counts": interfaces.SnapshotMerger,
        "watches_service": interfaces.ServiceWatcher,
    },
}

#: Those of them that the core also uses if their members are there and the capability is not declared.
_LOOKED_FOR: Collection[type] = (interfaces.MetricsExporter, interfaces.SnapshotMerger, interfaces.ServiceWatcher)


def interfaces_of(created: object, kind: str, capabilities: Collection[str]) -> list[type]:
    """The protocols by which the core uses *created*, from a registration of that *kind* with these *capabilities*."""
    optional = [
        each
        for capability, each in _OPTIONAL.get(kind, {}).items()
        if capability in capabilities or (each in _LOOKED_FOR and isinstance(created, each))
    ]
    return [_INTERFACES[kind], *optional]


def faults_of(created: object, interface: type) -> Iterator[str]:
    """
    What *created* lacks of the protocol *interface*, one text each: a member, or a parameter of a method.

    Types are not compared: they are the type checkers' part.
    """
    for name, member in _members(interface):
        if not hasattr(created, name):
            yield f"has no {_shape(name, member)}"
        elif inspect.isfunction(member) and not _takes(getattr(created, name), member):
            yield f"has a {name} with other parameters than {_shape(name, member)}"


def _members(interface: type) -> Iterator[tuple[str, Any]]:
    """The public members that a protocol declares, also those of the protocols that it extends."""
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
    """Whether *method* takes what the core gives it: positional arguments, and those by name that are by name only."""
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
