"""The status of services as values that JSON has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from sage_plugins.config.secrets import HIDDEN, is_secret, masked
from sage_plugins.config.service_config import ServiceDeploymentConfig

__all__ = ["plain"]


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
