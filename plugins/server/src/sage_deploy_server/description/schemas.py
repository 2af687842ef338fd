"""Builds JSON Schemas of methods' arguments and results, matching the conversions of `calling.signatures`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sage_plugins.config.secrets import is_secret

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sage_deploy_server.calling.signatures import MethodSignature

__all__ = ["Schemas", "body_schema"]

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

    def __init__(self, methods: Iterable[MethodSignature], ref_template: str) -> None:
        """
        Build the schemas.

        Args:
            methods: The methods.
            ref_template: Reference to a component, with `{name}` for its name.
        """
        kinds = [kind for method in methods for kind in method.types.values()]
        found, self.components = msgspec.json.schema_components(kinds, ref_template=ref_template)
        for schema in (*found, self.components):
            _say_what_base64_is(schema)
        # By identity, because an annotation may not be hashable. The methods keep it alive.
        self._schemas = {id(kind): schema for kind, schema in zip(kinds, found, strict=True)}

    def of(self, kind: Any) -> dict[str, Any]:
        """Return the schema of one annotation. `{}`, which allows anything, if msgspec does not know it."""
        return self._schemas.get(id(kind), {})

    def with_components(self, schema: dict[str, Any]) -> dict[str, Any]:
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


def body_schema(method: MethodSignature, schemas: Schemas) -> tuple[dict[str, Any], bool]:
    """
    Return the schema of a call's body, and whether a body is required.

    The body is an object with named arguments. With `*args` or positional-only parameters it may also be an array. If
    a positional-only parameter is required, it must be an array.
    """
    parameters = method.signature.parameters.values()
    required = [each for each in parameters if each.default is each.empty and each.kind not in _ANY_NUMBER]
    forms: list[dict[str, Any]] = []
    if not any(each.kind is each.POSITIONAL_ONLY for each in required):
        forms.append(_object_schema(method, schemas))
    if any(each.kind in _BY_ORDER for each in parameters) and not any(
        each.kind is each.KEYWORD_ONLY for each in required
    ):
        forms.append(_array_schema(method, schemas))
    body: dict[str, Any] = {"anyOf": forms} if forms else {"not": {}}
    return forms[0] if len(forms) == 1 else body, bool(required)


def _object_schema(method: MethodSignature, schemas: Schemas) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    others: Any = False
    for name, parameter in method.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            others = schemas.of(method.types.get(name))
        elif parameter.kind not in _BY_ORDER:
            properties[name] = _argument_schema(parameter, method, schemas)
            if parameter.default is parameter.empty:
                required.append(name)
    found: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": others}
    return {**found, "required": required} if required else found


def _array_schema(method: MethodSignature, schemas: Schemas) -> dict[str, Any]:
    first: list[dict[str, Any]] = []
    least = 0
    rest: Any = False
    for name, parameter in method.signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = schemas.of(method.types.get(name))
        elif parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}:
            first.append(_argument_schema(parameter, method, schemas))
            least += parameter.default is parameter.empty
    found: dict[str, Any] = {"type": "array", "items": rest, "minItems": least}
    return {**found, "prefixItems": first} if first else found


def _argument_schema(parameter: inspect.Parameter, method: MethodSignature, schemas: Schemas) -> dict[str, Any]:
    """Return the schema of one argument. Includes its default unless that is secret or not possible in JSON."""
    schema = schemas.of(method.types.get(parameter.name))
    if parameter.default is parameter.empty or is_secret(parameter.name):
        return schema
    try:
        return {**schema, "default": msgspec.json.decode(msgspec.json.encode(parameter.default))}
    except Exception:  # noqa: BLE001 - a default may be anything
        return schema
