"""Makes the configurations for the shorthand registrations, such as one replica on each node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sage_plugins.config.field_checks import shown
from sage_plugins.config.service_config import ServiceDeploymentConfig, fields
from sage_plugins.errors import ConfigError

__all__ = ["local_pool", "on_nodes", "split"]

#: The fields that the shorthands set themselves.
_DECIDED: Final = {"target", "target_nodes", "replicas"}


def split(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split keyword arguments into configuration fields and the rest, which goes to the constructor."""
    known = fields()
    settings = {name: value for name, value in given.items() if name in known}
    return settings, {name: value for name, value in given.items() if name not in known}


def on_nodes(nodes: Iterable[str], threads: int, settings: Mapping[str, Any]) -> ServiceDeploymentConfig:
    """
    Return a configuration with one replica on each node.

    Args:
        nodes: Names, IDs or addresses of the nodes.
        threads: Number of threads of each replica. More than one sets strategy `pool`.
        settings: Other fields of the configuration. They replace values that are derived here.

    Raises:
        ConfigError: A value is not valid, or *settings* has a field that *nodes* decides.
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
    Return a configuration with *pool_size* replicas in this process, which share *max_threads* threads.

    Args:
        pool_size: Number of replicas.
        max_threads: Number of threads of all replicas together, at least one each; None for one each.
        settings: Other fields of the configuration. They replace values that are derived here.

    Raises:
        ConfigError: A value is not valid, or *settings* has a field that *pool_size* decides.
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
