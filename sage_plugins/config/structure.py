"""Turns the mapping under a plugin's ID into an instance of its attrs options class, strictly, with every problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

if TYPE_CHECKING:
    from sage_plugins.values import Problem

__all__ = ["structure"]

T = TypeVar("T")


def structure(cls: type[T], value: object, *, key: str) -> tuple[T | None, list[Problem]]:
    """
    An instance of *cls* made of the mapping *value*, or every reason why there is none.

    Types are taken strictly: no boolean or string for a number, no float for an integer, no string for a list; an
    integer does for a float, and a list for a tuple. The class's own validators run, all of them, even if one fails.

    An attribute whose metadata have a `unit`, `"seconds"` or `"MiB"`, takes texts such as `250ms` and `4Gi` as well.

    Args:
        cls: An attrs class, such as a plugin's options class; its attributes may be booleans, numbers, strings,
            `Literal`s, enums, lists, tuples, dictionaries, other attrs classes, and unions of these.
        value: What the configuration has under *key*.
        key: Path of the value in the service's configuration, such as `options.round_robin`; problems are below it.

    Returns:
        The instance and an empty list, or None and the problems.
    """
    takes_options: bool = attrs.has(cls)  # asked apart: for type checkers it would make *cls* another type
    if not takes_options:
        msg = f"{cls!r} is not an attrs class"
        raise TypeError(msg)
    if isinstance(value, Mapping) and not value and not _required(cls):
        # No options at all is the usual case, and not worth an import.
        try:
            return cls(), []
        except Exception as error:  # noqa: BLE001 - a class's validators may raise anything; collected, not hidden
            from sage_plugins.config.strict_types import validator_problem

            return None, [validator_problem(error, key)]
    from sage_plugins.config.strict_types import RefusedError, build

    try:
        return build(cls, key, value), []
    except RefusedError as refusal:
        return None, refusal.problems


def _required(cls: type[Any]) -> bool:
    return any(attribute.init and attribute.default is attrs.NOTHING for attribute in attrs.fields(cls))
