"""Builds JSON Schemas of methods' arguments and results, matching the conversions of `shapes`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sage_plugins.config.secrets import is_secret

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sage_deploy_server.calling.shapes import Shape

__all__ = ["Schemas", "arguments_of"]

#: Base64 with padding, the form of bytes in JSON.
_BASE64: Final = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"

_ANY_NUMBER: Final = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
_BY_ORDER: Final = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL}


class Schemas:
    """
    The schemas of all annotations of some methods.

    Attributes:
        components: Schemas of classes, by a unique name.
    """

    def __init__(self, shapes: Iterable[Shape], ref_template: str) -> None:
        """
        Build the schemas.

        Args:
            shapes: The methods.
            ref_template: Reference to a component, with `{name}` for its name.
        """
        kinds = [kind for shape in shapes for kind in shape.types.values()]
        found, self.components = msgspec.json.schema_components(kinds, ref_template=ref_template)
        for schema in (*found, self.components):
            _say_what_base64_is(schema)
        # By identity, because an annotation may not be hashable. The shapes keep it alive.
        self._found = {id(kind): schema for kind, schema in zip(kinds, found, strict=True)}

    def of(self, kind: Any) -> dict[str, Any]:
        """Return the schema of one annotation. `{}`, which allows anything, if msgspec does not know it."""
        return self._found.get(id(kind), {})

    def complete(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return *schema* with all components, for references to `#/$defs/{name}`."""
        return {**schema, "$defs": self.components} if self.components else schema


def _say_what_base64_is(schema: Any) -> None:
    """Add a pattern to every base64 string, because `contentEncoding` alone does not say what is refused."""
    if isinstance(schema, list):
        for each in schema:
            _say_what_base64_is(each)
    elif isinstance(schema, dict):
        if schema.get("contentEncoding") == "base64":
            schema["pattern"] = _BASE64
        for each in schema.values():
            _say_what_base64_is(each)


def arguments_of(shape: Shape, schemas: Schemas) -> tuple[dict[str, Any], bool]:
    """
    Return the schema of a call's body, and whether a body is required.

    The body is an object with named arguments. With `*args` or positional-only parameters it may also be an array. If
    a positional-only parameter is required, it must be an array.
    """
    parameters = shape.signature.parameters.values()
    required = [each for each in parameters if each.default is each.empty and each.kind not in _ANY_NUMBER]
    forms: list[dict[str, Any]] = []
    if not any(each.kind is each.POSITIONAL_ONLY for each in required):
        forms.append(_by_name(shape, schemas))
    if any(each.kind in _BY_ORDER for each in parameters) and not any(
        each.kind is each.KEYWORD_ONLY for each in required
    ):
        forms.append(_by_order(shape, schemas))
    body: dict[str, Any] = {"anyOf": forms} if forms else {"not": {}}
    return forms[0] if len(forms) == 1 else body, bool(required)


def _by_name(shape: Shape, schemas: Schemas) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    others: Any = False
    for name, parameter in shape.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            others = schemas.of(shape.types.get(name))
        elif parameter.kind not in _BY_ORDER:
            properties[name] = _one(parameter, shape, schemas)
            if parameter.default is parameter.empty:
                required.append(name)
    found: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": others}
    return {**found, "required": required} if required else found


def _by_order(shape: Shape, schemas: Schemas) -> dict[str, Any]:
    first: list[dict[str, Any]] = []
    least = 0
    rest: Any = False
    for name, parameter in shape.signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = schemas.of(shape.types.get(name))
        elif parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}:
            first.append(_one(parameter, shape, schemas))
            least += parameter.default is parameter.empty
    found: dict[str, Any] = {"type": "array", "items": rest, "minItems": least}
    return {**found, "prefixItems": first} if first else found


def _one(parameter: inspect.Parameter, shape: Shape, schemas: Schemas) -> dict[str, Any]:
    """Return the schema of one argument. Includes its default unless that is secret or not possible in JSON."""
    schema = schemas.of(shape.types.get(parameter.name))
    if parameter.default is parameter.empty or is_secret(parameter.name):
        return schema
    try:
        return {**schema, "default": msgspec.json.decode(msgspec.json.encode(parameter.default))}
    except Exception:  # noqa: BLE001 - a default may be anything
        return schema
