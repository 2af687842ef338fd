"""
Builds the JSON Schema of plugins' options from their attrs classes.

It accepts what `structure` accepts, as far as a schema can: the types that `structure` knows, and attrs' own
validators. The plan checks what plugins check in their own code.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import types
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, Union, get_args, get_origin

import attrs

from sage_deploy_files.describing.option_docs import attribute_docs
from sage_deploy_files.describing.schema.validators import constrained
from sage_deploy_files.describing.schema.values import (
    VARIABLE,
    VARIABLE_WORDS,
    either,
    literal,
    types_of,
    variable,
    whole,
    with_default,
)
from sage_plugins.config.strict_types import LISTS, MAPPINGS
from sage_plugins.config.units import PATTERNS, UNIT_WORDS
from sage_plugins.errors import text_of

if TYPE_CHECKING:
    from sage_plugins.plugins.registry import Registered, RegisteredOptions, Registry

__all__ = ["OptionsSchemas"]

_SCALARS: Final[Mapping[Any, str]] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    None: "null",
    types.NoneType: "null",
}
_WORDS: Final[Mapping[str, str]] = {
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}


class OptionsSchemas:
    """
    Builds the schemas of options classes.

    Attributes:
        definitions: Schemas of the classes so far, by name, for `$defs`.
    """

    def __init__(self) -> None:
        self.definitions: dict[str, dict[str, Any]] = {}
        self._names: dict[type, str] = {}

    def of_plugins(self, registry: Registry) -> dict[str, Any]:
        """Return the schema of a service's `options`. Options of registered plugins are checked, others are allowed."""
        found: dict[str, list[Registered]] = {}
        for (kind, id), entry in sorted(registry.entries().items()):
            if kind != "extension":  # its options are for the whole file
                found.setdefault(id, []).append(entry)
        described: dict[str, dict[str, Any]] = {}
        without: list[str] = []
        for id, entries in sorted(found.items()):
            schemas = [schema for entry in entries if (schema := self._of_plugin(entry)) is not None]
            if schemas:
                described[id] = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
            else:
                without.append(id)
        options: dict[str, Any] = {"properties": described, "additionalProperties": {"type": "object"}}
        if without:
            # Not under `properties`, because editors would offer it.
            nothing = {"description": "It has no options.", "type": "object", "additionalProperties": False}
            options["patternProperties"] = {whole(either(*map(literal, without))): nothing}
        return options

    def of_environment(self, registry: Registry) -> dict[str, Any]:
        """Return the schema of the file's own `options`. Unknown ones are allowed here; the plan warns of them."""
        described = {id: self._of_plugin(entry) for id, entry in sorted(registry.environment_options().items())}
        return {"properties": described, "additionalProperties": {"type": "object"}}

    def _of_plugin(self, entry: Registered | RegisteredOptions) -> dict[str, Any] | None:
        registration = entry.registration
        title, description = registration.id, f"{registration.summary}\nFrom {entry.plugin.source}."
        try:
            cls = registration.options_class()
            why = "" if cls is None or attrs.has(cls) else f"{cls!r} is not an attrs class"
        except Exception as error:  # noqa: BLE001 - the plugin's function may raise anything; the schema shows it
            cls, why = None, text_of(error)
        if why:
            return {"title": title, "description": f"{description}\nIts options are not known: {why}", "type": "object"}
        if cls is None:
            return None
        return {"title": title, "description": description, **self.of_class(cls)}

    def of_class(self, cls: type) -> dict[str, Any]:
        """Return a reference to the definition of *cls*, an attrs class."""
        if cls not in self._names:
            name = re.sub(r"[^\w.]", "_", f"{cls.__module__}.{cls.__qualname__}", flags=re.ASCII)
            # Classes created in functions may share their name.
            same = sum(known.partition("-")[0] == name for known in self._names.values())
            name = f"{name}-{same + 1}" if same else name
            # Set before the definition is built, because a class may contain itself.
            self._names[cls] = name
            self.definitions[name] = self._class(cls)
        return {"$ref": f"#/$defs/{self._names[cls]}"}

    def _class(self, cls: type) -> dict[str, Any]:
        with contextlib.suppress(Exception):  # annotations may raise anything; unresolved ones allow any value
            attrs.resolve_types(cls)
        docs = attribute_docs(cls)
        properties: dict[str, dict[str, Any]] = {}
        required: list[str] = []
        for attribute in attrs.fields(cls):
            if not attribute.init:
                continue
            name = attribute.alias or attribute.name
            properties[name] = self._attribute(name, attribute, docs.get(attribute.name, ""))
            if attribute.default is attrs.NOTHING:
                required.append(name)
        schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
        if required:
            schema["required"] = required
        return schema

    def _attribute(self, name: str, attribute: attrs.Attribute[Any], doc: str) -> dict[str, Any]:
        schema = {} if attribute.type is None else self._bare(attribute.type)
        if attribute.converter is None:  # with a converter, the validator sees the converted value
            schema = constrained(schema, attribute.validator)
        lines = [doc] if doc else []
        if attribute.default is attrs.NOTHING:
            lines.append("Required.")
        elif given := _default(attribute.default):
            schema = with_default(schema, given[0])
            lines.append(f"Default: {json.dumps(given[0])}.")
        schema = _with_variable(schema)
        if unit := attribute.metadata.get("unit", ""):
            schema = {**schema, "pattern": either(PATTERNS[unit], VARIABLE)}  # as for fields
            lines.append(f"Takes {UNIT_WORDS[unit]} too.")
        return {"title": name, "description": "\n".join(lines), **schema}

    def _of(self, kind: Any) -> dict[str, Any]:
        return _with_variable(self._bare(kind))

    def _bare(self, kind: Any) -> dict[str, Any]:
        """Return the schema of what `structure` accepts for a type, without variables. Empty: none can say it."""
        origin, arms = get_origin(kind) or kind, get_args(kind)
        if _is_scalar(origin):
            return {"type": _SCALARS[origin]}
        if origin in {Union, types.UnionType}:
            return _union([self._bare(arm) for arm in arms])
        if origin is Literal:
            return {"enum": _plain_only(arms)}
        return self._of_origin(origin, arms) if isinstance(origin, type) else {}

    def _of_origin(self, origin: type, arms: tuple[Any, ...]) -> dict[str, Any]:
        if issubclass(origin, Enum):
            return {"enum": _plain_only(member.value for member in origin)}
        if attrs.has(origin):
            return self.of_class(origin)
        if origin in LISTS:
            return self._list(origin, arms)
        return self._mapping(arms) if origin in MAPPINGS else {}

    def _list(self, origin: type, arms: tuple[Any, ...]) -> dict[str, Any]:
        if origin is tuple and arms and arms[-1] is not Ellipsis:
            items = [self._of(arm) for arm in arms]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": len(arms)}
        each = self._of(arms[0]) if arms else {}
        return {"type": "array", **({"items": each} if each else {})}

    def _mapping(self, arms: tuple[Any, ...]) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "object"}
        if arms:
            names, values = self._bare(arms[0]), self._of(arms[1])
            if names not in ({}, {"type": "string"}):
                schema["propertyNames"] = names
            if values:
                schema["additionalProperties"] = values
        return schema


def _is_scalar(kind: Any) -> bool:
    return kind is None or (isinstance(kind, type) and kind in _SCALARS)


def _plain_only(values: Iterable[Any]) -> list[Any]:
    """Return the values that a file can have. `structure` compares types, so no value equals an enum's member."""
    return [value for value in values if value is None or type(value) in {bool, int, float, str}]


def _union(arms: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a schema of what one of the arms accepts, without `anyOf` if possible. `values` explains why."""
    if {} in arms:
        return {}
    if all("enum" in arm or arm == {"type": "null"} for arm in arms):
        return {"enum": [value for arm in arms for value in arm.get("enum", [None])]}
    kinds = [kind for arm in arms for kind in types_of(arm)]
    if len(kinds) == len(set(kinds)) == len(arms):
        kinds.sort(key=lambda kind: kind == "null")
        return {**{key: value for arm in arms for key, value in arm.items()}, "type": kinds}
    return {"anyOf": arms}


def _with_variable(schema: dict[str, Any]) -> dict[str, Any]:
    """Also allow a text with a variable, unless the schema accepts texts anyway or accepts no scalars."""
    if "enum" in schema:
        return {"anyOf": [schema, variable()]}
    if "anyOf" in schema:
        texts = any("string" in types_of(arm) for arm in schema["anyOf"])
        return schema if texts else {**schema, "anyOf": [*schema["anyOf"], variable()]}
    kinds = types_of(schema)
    if "string" in kinds or not {"boolean", "integer", "number"} & set(kinds):
        return schema
    words = " or ".join(_WORDS[kind] for kind in kinds)
    message = f"must be {words}; {VARIABLE_WORDS}"
    # As for fields: editors begin with a value of the first type.
    kinds = [*kinds, "string"] if "default" in schema else ["string", *kinds]
    return {**schema, "type": kinds, "pattern": VARIABLE, "errorMessage": message}


def _default(default: Any) -> list[Any]:
    """Return a list with the default as plain values. It is empty if there is none, or JSON cannot express it."""
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # a class, declared as a function
        if default.takes_self:
            return []
        try:
            default = default.factory()
        except Exception:  # noqa: BLE001 - the plugin's function may raise anything; the plan reports it
            return []
    try:
        return [_plain(default)]
    except _NotPlainError:
        return []


class _NotPlainError(Exception):
    """JSON has no such value."""


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if attrs.has(type(value)):
        names = {each.name: each.alias or each.name for each in attrs.fields(type(value)) if each.init}
        return {alias: _plain(getattr(value, name)) for name, alias in names.items()}
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(child) for name, child in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(_plain, value), key=repr)
    if isinstance(value, (list, tuple)):
        return [_plain(child) for child in value]
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise _NotPlainError
