"""Returns the status of an environment's services as JSON values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Any, cast

import attrs

from sage_plugins.config.secrets import HIDDEN, is_secret, masked
from sage_plugins.config.service_config import ServiceDeploymentConfig
from sage_plugins.errors import SageDeployError

if TYPE_CHECKING:
    from sage_plugins.deployment.task import ServiceTask
    from sage_plugins.environment.detached import DetachedStatus
    from sage_plugins.environment.services import Services

__all__ = ["plain", "status_of"]


def status_of(
    services: Services, detached: DetachedStatus, show: Callable[[ServiceTask], Any], only: str | None = None
) -> dict[str, Any]:
    """
    Return `services` and `problem` of `Environment.status`.

    Args:
        services: The environment's services.
        detached: Finds services that other processes have deployed.
        show: Returns one service's status.
        only: Name of the only wanted service; None for all.
    """
    found: dict[str, Any] = {}
    for name in [each for each in services.names if only in {None, each}]:
        try:
            found[name] = show(services.task(name))
        except (SageDeployError, ValueError) as error:
            found[name] = {"service_name": name, "state": "refused", "error": str(error)}
    kept, problem = detached.look()
    found.update((name, plain(each)) for name, each in kept.items() if name not in found and only in {None, name})
    return {"services": found, **({"problem": problem} if problem else {})}


def plain(value: object, path: str = "") -> Any:
    """
    Return *value* as a JSON value, with secrets masked.

    Args:
        value: Any object. Objects that JSON does not have become text by `str`.
        path: The key of the value, to recognize secrets. If it has dots, only the last part counts.
    """
    if value is None or value is True or value is False:
        return value
    kind: Any = type(value)
    if kind is dict or isinstance(value, Mapping):
        return {str(key): plain(each, str(key)) for key, each in cast("Mapping[Any, Any]", value).items()}
    if path and _is_hidden(path):
        return HIDDEN
    return value if kind is str or kind is int else _plain_object(value, kind, path)


def _plain_object(value: Any, kind: Any, path: str) -> Any:
    if kind is ServiceDeploymentConfig:  # `masked` checks whole paths: everything below a secret key is secret
        return plain(masked(value.to_dict()), path)
    fields = _fields(kind)
    if fields is not None:
        return plain({name: getattr(value, name) for name in fields})
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each, path) for each in value]
    return value if isinstance(value, int) or (isinstance(value, float) and abs(value) < inf) else str(value)


@lru_cache(maxsize=4096)
def _is_hidden(path: str) -> bool:
    return is_secret(path.rpartition(".")[2])


@lru_cache(maxsize=256)
def _fields(cls: Any) -> tuple[str, ...] | None:
    return tuple(field.name for field in attrs.fields(cls)) if attrs.has(cls) else None
