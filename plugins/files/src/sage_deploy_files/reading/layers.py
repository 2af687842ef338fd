"""
What the parts of a file say about one service, and what comes of it: a profile over the entry over the defaults.

Mappings are merged key by key, everything else is taken as a whole. Places are looked up when somebody asks, because
defaults are shared by all services of a file and may be large.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import attrs

from sage_deploy_files.reading.problems import Position
from sage_plugins.config.origins import Origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sage_deploy_files.reading.nodes import Node

__all__ = ["Budget", "Layer", "Place", "TooMuchError", "find_place", "merged", "origin_of", "walk"]

#: Most values that merging may copy for all services of a file together; as many as a file may have.
MOST_MERGED: Final = 50_000


class Place(NamedTuple):
    """
    Where a value stands in a file.

    Attributes:
        key: Its key, or the value itself in a list.
        value: Its first character.
        is_mapping: Whether parts of it have places of their own that others may add to.
        variables: The variables of the environment that it consists of.
    """

    key: Position
    value: Position
    is_mapping: bool
    variables: tuple[str, ...]


@attrs.define(eq=False)
class Layer:
    """
    What one mapping of the file says about a service.

    Attributes:
        source: Which part of the file it is.
        profile: Name of the profile that it belongs to, or "".
        values: The fields that it sets, by name, and `class` and `init`.
        places: Place of each value, by its path.
        bad: The fields that it sets wrongly, `class` and `init`, which are not among the values; `methods.get` or
            `options.pool` for an empty mapping that stands in for a wrong one.
    """

    source: Literal["file", "profile", "defaults"] = "file"
    profile: str = ""
    values: dict[str, Any] = attrs.Factory(dict)
    places: dict[str, Place] = attrs.Factory(dict)
    bad: set[str] = attrs.Factory(set)

    def hides(self, path: str) -> bool:
        """Whether a value that is no mapping stands on the way to *path*, so that lower layers say nothing there."""
        end = path.find(".")
        while end >= 0:
            place = self.places.get(path[:end])
            if place is not None and not place.is_mapping:
                return True
            end = path.find(".", end + 1)
        return False


class TooMuchError(Exception):
    """Merging would copy more than a file may hold."""


class Budget:
    """Counts what merging copies for all services of a file."""

    def __init__(self, most: int = MOST_MERGED) -> None:
        self._left = most

    def spend(self, count: int) -> None:
        """Take so many off; raises TooMuchError if they are not there."""
        self._left -= count
        if self._left < 0:
            raise TooMuchError


def merged(layers: Sequence[Layer], budget: Budget) -> dict[str, Any]:
    """
    The values of a service whose *layers* are given, the highest first; what is in one layer only is shared with it.

    Raises:
        TooMuchError: The budget is used up.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.values.items():
            if name not in values:
                values[name] = value
            elif isinstance(values[name], Mapping) and isinstance(value, Mapping):
                values[name] = _merged(values[name], value, budget)
    return values


def _merged(over: Mapping[str, Any], under: Mapping[str, Any], budget: Budget) -> dict[str, Any]:
    # As deep as a file at most.
    budget.spend(len(over) + len(under))
    values = dict(over)
    for name, value in under.items():
        if name not in values:
            values[name] = value
        elif isinstance(values[name], Mapping) and isinstance(value, Mapping):
            values[name] = _merged(values[name], value, budget)
    return values


def find_place(layers: Sequence[Layer], path: str) -> tuple[Layer, Place] | None:
    """Where the value at *path* comes from, or None if no layer has it."""
    for layer in layers:
        place = layer.places.get(path)
        if place is not None:
            return layer, place
        if layer.hides(path):
            return None
    return None


def origin_of(layers: Sequence[Layer], path: str, file: str) -> Origin | None:
    """Who set the value at *path*, in the file that is called *file*; None if no layer did."""
    found = find_place(layers, path)
    if found is None:
        return None
    layer, place = found
    return Origin(layer.source, file, place.value.line, place.value.column, layer.profile, place.variables)


def walk(node: Node, path: str, key: Position, places: dict[str, Place]) -> None:
    """Note the place of a value and of everything in it; a list's items are their own keys."""
    pending = [(path, key, node)]
    while pending:
        at, key, child = pending.pop()
        variables = child.variables or tuple(dict.fromkeys(name for item in child.items for name in item.variables))
        places[at] = Place(key, Position(child.line, child.column), child.kind == "mapping", variables)
        pending += [(f"{at}.{name}", Position(*child.keys[name]), entry) for name, entry in child.entries.items()]
        pending += [(f"{at}.{index}", Position(item.line, item.column), item) for index, item in enumerate(child.items)]
