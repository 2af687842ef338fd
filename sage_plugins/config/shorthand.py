"""The configurations behind the registrations that name only what matters to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sage_plugins.config.field_checks import shown
from sage_plugins.config.service_config import ServiceDeploymentConfig, fields
from sage_plugins.errors import ConfigError

__all__ = ["local_pool", "on_nodes", "split"]

#: What the shorthands decide by themselves, and from which of their arguments.
_DECIDED: Final = {"target", "target_nodes", "replicas"}


def split(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part keyword arguments into fields of the configuration and the rest, which the constructor gets."""
    known = fields()
    settings = {name: value for name, value in given.items() if name in known}
    return settings, {name: value for name, value in given.items() if name not in known}


def on_nodes(nodes: Iterable[str], threads: int, settings: Mapping[str, Any]) -> ServiceDeploymentConfig:
    """
    One replica on each of *nodes*, with so many threads.

    Args:
        nodes: Names, IDs or addresses.
        threads: Of each replica; more than one is strategy `pool`.
        settings: Other fields of the configuration; they win over what is derived here.

    Raises:
        ConfigError: A value is not valid, or *settings* has what *nodes* decides.
    """
    _refuse_decided("nodes", settings)
    if isinstance(nodes, str) or not isinstance(nodes, Iterable):
        raise ConfigError(f"nodes: must be a list of names, got {shown(nodes)}")
    names = list(nodes)
    if not names:
        raise ConfigError("nodes: must have at least one name")
    derived = {
        "target": "remote_specific",
        "target_nodes": names,
        "replicas": len(names),
        **_threads(_positive("threads", threads)),
    }
    return ServiceDeploymentConfig(**{**derived, **settings})


def local_pool(pool_size: int, max_threads: int | None, settings: Mapping[str, Any]) -> ServiceDeploymentConfig:
    """
    So many replicas in this process, which share so many threads.

    Args:
        pool_size: Number of replicas.
        max_threads: Threads of all replicas together, at least one each; None for one each.
        settings: Other fields of the configuration; they win over what is derived here.

    Raises:
        ConfigError: A value is not valid, or *settings* has what *pool_size* decides.
    """
    _refuse_decided("pool_size", settings)
    replicas = _positive("pool_size", pool_size)
    threads = replicas if max_threads is None else _positive("max_threads", max_threads)
    derived = {
        "target": "local",
        "replicas": replicas,
        **_threads(max(1, threads // replicas)),
    }
    return ServiceDeploymentConfig(**{**derived, **settings})


def _threads(count: int) -> dict[str, Any]:
    return {"thread_count": count, "threading_strategy": "pool" if count > 1 else "single"}


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name}: must be an integer, 1 or more, got {shown(value)}")
    return value


def _refuse_decided(by: str, settings: Mapping[str, Any]) -> None:
    twice = sorted(_DECIDED & set(settings))
    if twice:
        raise ConfigError(
            f"{twice[0]}: is decided by {by} here; use register_service_with_config to set it in another way"
        )
