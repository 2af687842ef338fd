"""Builds the JSON Schema of a configuration field from its declaration."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_files.describing.schema.values import (
    IDENTIFIER,
    NOT_BLANK,
    VARIABLE,
    VARIABLE_WORDS,
    either,
    nullable,
    suggested,
    variable,
    whole,
    with_default,
)
from sage_plugins.config.field_checks import DISTINCT
from sage_plugins.config.service_config import plain
from sage_plugins.config.units import PATTERNS, UNIT_WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sage_plugins.config.field_checks import FieldInfo, Kind

__all__ = ["field_schema"]

#: Names of methods. Private ones are not served.
_METHOD: Final = whole(rf"(?!_){IDENTIFIER}")


def field_schema(info: FieldInfo, offered: Mapping[str, str], *, is_nested: bool = False) -> dict[str, Any]:
    """
    Return the schema of a field's value in a file.

    Args:
        info: Declares the field.
        offered: IDs that editors offer, with a description each. Empty for a field without IDs.
        is_nested: Whether it is a key of a mapping. There, the default None means that it has no default.
    """
    about = {"title": info.name, "description": _description(info, is_nested=is_nested)}
    return with_default(about | _VALUES[info.kind](info, offered), plain(info.default))


def _description(info: FieldInfo, *, is_nested: bool) -> str:
    lines = [info.doc]
    if info.unit:
        lines.append(f"Takes {UNIT_WORDS[info.unit]} too.")
    if info.range:
        lines.append(f"Allowed: {info.range}.")
    if not is_nested or info.default is not None:
        lines.append(f"Default: {json.dumps(plain(info.default))}.")
    return "\n".join(lines)


def _message(info: FieldInfo) -> str:
    """Return the editor's message for a value of a wrong type, or a text that is no value of the right type."""
    words = f"must be {info.type_with_article}" + (f", {info.range}" if info.range else "")
    if info.unit:
        words += f", or {UNIT_WORDS[info.unit]}"
    return f"{words}; {VARIABLE_WORDS}"


def _number(info: FieldInfo, _: Mapping[str, str]) -> dict[str, Any]:
    # An editor that inserts the key begins with a value of the first type, and the number 0 may be out of range.
    types = ("string", info.kind) if info.default is None else (info.kind, "string")
    schema: dict[str, Any] = {"type": nullable(*types, optional=info.optional)}
    if info.minimum is not None:
        schema["exclusiveMinimum" if info.exclusive else "minimum"] = info.minimum
    if info.maximum is not None:
        schema["maximum"] = info.maximum
    units = [*([PATTERNS[info.unit]] if info.unit else []), *(f"^{word}$" for word in info.choices)]
    return {**schema, "pattern": either(*units, VARIABLE), "errorMessage": _message(info)}


def _boolean(info: FieldInfo, _: Mapping[str, str]) -> dict[str, Any]:
    types = nullable("boolean", "string", optional=info.optional)
    return {"type": types, "pattern": VARIABLE, "errorMessage": _message(info)}


def _text(*, optional: bool = False) -> dict[str, Any]:
    words = "must be a string that is not empty and has no blanks around it"
    return {
        "type": nullable("string", optional=optional),
        "pattern": NOT_BLANK,
        "errorMessage": words + (", or null" if optional else ""),
    }


def _string(info: FieldInfo, offered: Mapping[str, str]) -> dict[str, Any]:
    if info.choices:
        return {"anyOf": [{"enum": [*info.choices, *([None] if info.optional else [])]}, variable()]}
    return suggested(_text(optional=info.optional), offered, title=info.name)


def _strings(info: FieldInfo, offered: Mapping[str, str]) -> dict[str, Any]:
    items = suggested(_text(), offered, title=f"one of {info.name}")
    schema: dict[str, Any] = {"type": nullable("array", optional=info.optional), "items": items}
    if info.name in DISTINCT:
        schema["uniqueItems"] = True
    return schema


def _labels(info: FieldInfo, _: Mapping[str, str]) -> dict[str, Any]:
    return {"type": nullable("object", optional=info.optional), "additionalProperties": _text()}


def _keys(declared: Mapping[str, FieldInfo]) -> dict[str, Any]:
    properties = {name: field_schema(info, {}, is_nested=True) for name, info in declared.items()}
    return {"properties": properties, "additionalProperties": False}


def _mapping(info: FieldInfo, _: Mapping[str, str]) -> dict[str, Any]:
    return {"type": nullable("object", optional=info.optional)} | (_keys(info.keys) if info.keys else {})


def _methods(info: FieldInfo, _: Mapping[str, str]) -> dict[str, Any]:
    method = {"description": "How calls of this method are run.", "type": "object", **_keys(info.keys)}
    return {
        "type": nullable("object", optional=info.optional),
        "patternProperties": {_METHOD: method},
        "additionalProperties": False,
    }


def _batch(info: FieldInfo, _: Mapping[str, str]) -> dict[str, Any]:
    # Editors use the title in their message about a wrong type.
    mapping = {"title": info.type, "type": "object", **_keys(info.keys)}
    return {"anyOf": [mapping, {"const": True}, variable()]}


def _options(info: FieldInfo, _: Mapping[str, str]) -> dict[str, Any]:
    """Allow any options of any plugin: `OptionsSchemas.of_plugins` adds the known ones."""
    return {"type": nullable("object", optional=info.optional), "additionalProperties": {"type": "object"}}


_VALUES: Final[Mapping[Kind, Callable[[FieldInfo, Mapping[str, str]], dict[str, Any]]]] = {
    "integer": _number,
    "number": _number,
    "boolean": _boolean,
    "string": _string,
    "strings": _strings,
    "labels": _labels,
    "mapping": _mapping,
    "methods": _methods,
    "batch": _batch,
    "options": _options,
}
