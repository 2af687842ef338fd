"""The status of an environment's services as values that JSON has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from sage_plugins.config.secrets import HIDDEN, is_secret, masked
from sage_plugins.config.service_config import ServiceDeploymentConfig
from sage_plugins.errors import SageDeployError

if TYPE_CHECKING:
    from sage_plugins.environment.elsewhere import Elsewhere
    from sage_plugins.environment.services import Services

__all__ = ["plain", "status_of"]


def status_of(services: Services, elsewhere: Elsewhere) -> dict[str, Any]:
    """`services` and `problem` of `Environment.status`."""
    found: dict[str, Any] = {}
    for name in services.names:
        try:
            found[name] = plain(services.task(name).status())
        except (SageDeployError, ValueError) as error:
            found[name] = {"service_name": name, "state": "refused", "error": str(error)}
    kept, problem = elsewhere.look()
    found.update((name, plain(said)) for name, said in kept.items() if name not in found)
    return {"services": found, **({"problem": problem} if problem else {})}


def plain(value: object, path: str = "") -> Any:
    """
    *value* as JSON has it: mappings, lists, texts, numbers, booleans, None; secrets are masked.

    Args:
        value: Anything; an object of a class that JSON does not have becomes the text that `str` gives.
        path: Names of the mappings' keys on the way to it, with dots between them.
    """
    if path and value is not None and not isinstance(value, (bool, Mapping)) and is_secret(path.rpartition(".")[2]):
        return HIDDEN
    if isinstance(value, ServiceDeploymentConfig):
        return plain(masked(value.to_dict()), path)  # by whole paths: below a secret's name everything is secret
    cls: Any = type(value)
    if attrs.has(cls):
        value = {field.name: getattr(value, field.name) for field in attrs.fields(cls)}
    if isinstance(value, Mapping):
        return {str(key): plain(each, f"{path}.{key}" if path else str(key)) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each, path) for each in value]
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and abs(value) < float("inf")):
        return value
    return str(value)
