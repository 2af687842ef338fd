"""
The parts of a file that configure one service, and how they merge: profile over entry over defaults.

Mappings are merged key by key; other values replace each other as a whole. Places are looked up on demand, because all
services of a file share its defaults, which may be large.
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

#: Maximum number of values that merging may copy for all services of a file together. It equals `MAX_NODES`.
MOST_MERGED: Final = 50_000


class Place(NamedTuple):
    """
    Where a value stands in a file.

    Attributes:
        key: Position of its key. For an item of a list: of the item itself.
        value: Position of its first character.
        is_mapping: Whether it is a mapping, to which lower layers can add keys.
        variables: Names of the environment variables in it.
    """

    key: Position
    value: Position
    is_mapping: bool
    variables: tuple[str, ...]


@attrs.define(eq=False)
class Layer:
    """
    The settings that one mapping of the file has for a service.

    Attributes:
        source: The kind of part of the file.
        profile: Its profile's name, or "".
        values: The fields that it sets, by name, and `class` and `init`.
        places: Place of each value, by path.
        bad: Fields, `class` and `init` that it sets wrongly; `values` lacks them. A path such as `methods.get` or
            `options.pool` means that an empty mapping replaces a wrong one.
    """

    source: Literal["file", "profile", "defaults"] = "file"
    profile: str = ""
    values: dict[str, Any] = attrs.Factory(dict)
    places: dict[str, Place] = attrs.Factory(dict)
    bad: set[str] = attrs.Factory(set)

    def hides(self, path: str) -> bool:
        """Whether a value above *path* is no mapping, so that it replaces what lower layers have there."""
        end = path.find(".")
        while end >= 0:
            place = self.places.get(path[:end])
            if place is not None and not place.is_mapping:
                return True
            end = path.find(".", end + 1)
        return False


class TooMuchError(Exception):
    """Merging would copy more values than a file may have."""


class Budget:
    """Limits how many values merging copies for all services of a file together."""

    def __init__(self, most: int = MOST_MERGED) -> None:
        self._left = most

    def spend(self, count: int) -> None:
        """Use up *count* of the budget. Raise TooMuchError if less is left."""
        self._left -= count
        if self._left < 0:
            raise TooMuchError


def merged(layers: Sequence[Layer], budget: Budget) -> dict[str, Any]:
    """
    Merge the *layers* of a service, highest priority first. Values that only one layer has are shared with it.

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
    # The recursion is no deeper than a file may be.
    budget.spend(len(over) + len(under))
    values = dict(over)
    for name, value in under.items():
        if name not in values:
            values[name] = value
        elif isinstance(values[name], Mapping) and isinstance(value, Mapping):
            values[name] = _merged(values[name], value, budget)
    return values


def find_place(layers: Sequence[Layer], path: str) -> tuple[Layer, Place] | None:
    """Return the layer and the place that the value at *path* comes from, or None if no layer has it."""
    for layer in layers:
        place = layer.places.get(path)
        if place is not None:
            return layer, place
        if layer.hides(path):
            return None
    return None


def origin_of(layers: Sequence[Layer], path: str, file: str) -> Origin | None:
    """Return what set the value at *path* in the file called *file*, or None if no layer did."""
    found = find_place(layers, path)
    if found is None:
        return None
    layer, place = found
    return Origin(layer.source, file, place.value.line, place.value.column, layer.profile, place.variables)


def walk(node: Node, path: str, key: Position, places: dict[str, Place]) -> None:
    """Record the places of a value and of all values in it. An item of a list counts as its own key."""
    pending = [(path, key, node)]
    while pending:
        at, key, child = pending.pop()
        variables = child.variables or tuple(dict.fromkeys(name for item in child.items for name in item.variables))
        places[at] = Place(key, Position(child.line, child.column), child.kind == "mapping", variables)
        pending += [(f"{at}.{name}", Position(*child.keys[name]), entry) for name, entry in child.entries.items()]
        pending += [(f"{at}.{index}", Position(item.line, item.column), item) for index, item in enumerate(child.items)]
