"""Makes an instance of a plugin's options class from its mapping in a configuration, and collects all problems."""

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
    Make an instance of *cls* from the mapping *value*, or return all reasons why that is impossible.

    Types are checked strictly: no boolean or string for a number, no float for an integer, no string for a list. An
    integer is accepted for a float, and a list for a tuple. All validators of the class run, even if one fails.

    If the metadata of an attribute have the `unit` `"seconds"` or `"MiB"`, it also accepts texts such as `250ms` and
    `4Gi`.

    Args:
        cls: An attrs class, such as a plugin's options class. Its attributes may be booleans, numbers, strings,
            `Literal`s, enums, lists, tuples, dictionaries, other attrs classes, and unions of these.
        value: The value under *key* in the configuration.
        key: Path of the value in the service's configuration, such as `options.round_robin`. Keys of problems begin
            with it.

    Returns:
        The instance and an empty list, or None and the problems.
    """
    takes_options: bool = attrs.has(cls)  # in an `if`, it would change the type of *cls* for type checkers
    if not takes_options:
        msg = f"{cls!r} is not an attrs class"
        raise TypeError(msg)
    if isinstance(value, Mapping) and not value and not _required(cls):
        # Empty options are the usual case, so avoid the import below.
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
