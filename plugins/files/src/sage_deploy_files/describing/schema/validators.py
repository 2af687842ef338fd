"""Translates attrs' own validators to JSON Schema. Validators written by plugins are skipped."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from attrs import validators

from sage_deploy_files.describing.schema.values import VARIABLE, either, types_of, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["constrained"]

#: JSON Schema's keyword for a bound, and which of two bounds is stricter.
_BOUNDS: Final[Mapping[str, tuple[str, Callable[..., float]]]] = {
    ">=": ("minimum", max),
    ">": ("exclusiveMinimum", max),
    "<=": ("maximum", min),
    "<": ("exclusiveMaximum", min),
}
#: Length of the shortest text with a variable.
_SHORTEST_VARIABLE: Final = len("${X}")
#: Above this number, choices are not listed: nobody wants to be offered so many.
_CHOICES: Final = 100
#: Matches regular expressions that mean the same in Python and JSON Schema. `\w` and `\b` differ in characters beyond
#: ASCII.
_COMMON: Final = re.compile(
    r"""(?x)
    (?: [^\\()\[\]{}]                                         # characters, repetition, alternatives
      | \((?:\?[:=!])? | \)
      | \{\d+(?:,\d*)?\}
      | \\[dsDSnrtfv.\\/^$*+?()\[\]{}|]
      | \[ \^? (?: [^\\\[\]] | \\[dsDSnrtfv.\\/^$*+?()\[\]{}|-] )+ \]
    )*
    """
)


def constrained(schema: dict[str, Any], validator: Any) -> dict[str, Any]:
    """
    Return the schema with a validator's rules added, as far as a schema can express them.

    Args:
        schema: The schema of the attribute's type. It is not changed.
        validator: The attribute's validator, or None.
    """
    for kind, constrain in _CONSTRAIN.items():
        if isinstance(validator, kind):
            return constrain(schema, validator)
    return schema


def _all(schema: dict[str, Any], validator: Any) -> dict[str, Any]:
    for each in validator._validators:  # noqa: SLF001 - attrs offers no other access
        schema = constrained(schema, each)
    return schema


def _optional(schema: dict[str, Any], validator: Any) -> dict[str, Any]:
    found = constrained(schema, validator.validator)
    if "enum" in found and None not in found["enum"] and "null" in types_of(schema):
        found = {**found, "enum": [*found["enum"], None]}
    return found


def _bound(schema: dict[str, Any], validator: Any) -> dict[str, Any]:
    name, stricter = _BOUNDS[validator.compare_op]
    if isinstance(validator.bound, bool) or not isinstance(validator.bound, (int, float)):
        return schema
    return {**schema, name: stricter(schema.get(name, validator.bound), validator.bound)}


def _choices(schema: dict[str, Any], validator: Any) -> dict[str, Any]:
    options = validator.options
    if isinstance(options, str) or not hasattr(options, "__len__") or len(options) > _CHOICES:
        return schema
    values = list(options)
    if not all(value is None or type(value) in {bool, int, float, str} for value in values):
        return schema
    if isinstance(options, (set, frozenset)):
        values.sort(key=repr)
    if "enum" in schema:
        values = [value for value in schema["enum"] if value in values]
    elif not types_of(schema) or "anyOf" in schema:
        return schema
    return {**{key: value for key, value in schema.items() if key != "type"}, "enum": values}


def _pattern(schema: dict[str, Any], validator: Any) -> dict[str, Any]:
    pattern: re.Pattern[str] = validator.pattern
    if pattern.flags & ~(re.UNICODE | re.ASCII) or not _COMMON.fullmatch(pattern.pattern):
        return schema
    match validator.match_func.__name__:
        case "fullmatch":
            text = whole(pattern.pattern)
        case "match":
            text = f"^(?:{pattern.pattern})"
        case _:
            text = pattern.pattern
    return _text(schema, text)


def _shortest(schema: dict[str, Any], validator: Any) -> dict[str, Any]:
    least = validator.min_length
    found = _length(schema, least, "min")
    if "string" not in types_of(schema):
        return found
    if least <= _SHORTEST_VARIABLE:
        return {**found, "minLength": least}
    return _text(found, whole(rf"[\s\S]{{{least},}}"))


def _longest(schema: dict[str, Any], validator: Any) -> dict[str, Any]:
    found = _length(schema, validator.max_length, "max")
    if "string" not in types_of(schema):
        return found
    return _text(found, whole(rf"[\s\S]{{0,{validator.max_length}}}"))


def _length(schema: dict[str, Any], length: int, which: str) -> dict[str, Any]:
    names = {"array": f"{which}Items", "object": f"{which}Properties"}
    return {**schema, **{names[kind]: length for kind in types_of(schema) if kind in names}}


def _text(schema: dict[str, Any], pattern: str) -> dict[str, Any]:
    """Return the schema with a pattern for its strings. Texts with a variable pass, because their value is unknown."""
    found = {"pattern": either(pattern, VARIABLE)}
    return {**schema, "allOf": [*schema.get("allOf", []), found]} if "pattern" in schema else {**schema, **found}


#: The validators' classes are private in attrs, so they are taken from what its public functions return.
_CONSTRAIN: Final[Mapping[type, Callable[[dict[str, Any], Any], dict[str, Any]]]] = {
    type(validators.and_()): _all,
    type(validators.optional(validators.min_len(0))): _optional,
    type(validators.ge(0)): _bound,
    type(validators.in_(())): _choices,
    type(validators.matches_re("")): _pattern,
    type(validators.min_len(0)): _shortest,
    type(validators.max_len(0)): _longest,
}
