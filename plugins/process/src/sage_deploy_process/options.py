"""Options of target `process`, in addition to the fields of a service's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["ProcessOptions"]


def _variables(_instance: Any, _attribute: attrs.Attribute[Any], env: Mapping[str, str]) -> None:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            msg = f"has {name!r}: a variable's name is not empty and has no '=', and neither has a NUL character"
            raise ValueError(msg)


@attrs.frozen
class ProcessOptions:
    """
    Options of target `process`.

    Attributes:
        affinity: Whether each replica runs on its own cores, as many as `cpu_cores`. Linux only.
        env: Environment variables of the replicas, in addition to those of the deploying process.
    """

    affinity: bool = False
    env: Mapping[str, str] = attrs.field(factory=dict, validator=_variables)
