"""JSON Schemas of what methods take and give, as `shapes` converts it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sage_plugins.config.secrets import is_secret

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sage_deploy_server.calling.shapes import Shape

__all__ = ["Schemas", "arguments_of"]

#: Base64 with its padding, as bytes come.
_BASE64: Final = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"

_ANY_NUMBER: Final = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
_BY_ORDER: Final = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL}


class Schemas:
    """
    The schemas of all annotations of some methods.

    Attributes:
        components: Schemas of classes, by a name that no other class has.
    """

    def __init__(self, shapes: Iterable[Shape], ref_template: str) -> None:
        """
        Make them.

        Args:
            shapes: The methods.
            ref_template: How a schema refers to a component, with `{name}` for its name.
        """
        kinds = [kind for shape in shapes for kind in shape.types.values()]
        found, self.components = msgspec.json.schema_components(kinds, ref_template=ref_template)
        for schema in (*found, self.components):
            _say_what_base64_is(schema)
        # By identity: an annotation need not be hashable, and the shapes keep it alive.
        self._found = {id(kind): schema for kind, schema in zip(kinds, found, strict=True)}

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of one annotation; `{}`, which is anything, for one that msgspec does not know."""
        return self._found.get(id(kind), {})

    def complete(self, schema: dict[str, Any]) -> dict[str, Any]:
        """*schema* with all components, for references to `#/$defs/{name}`."""
        return {**schema, "$defs": self.components} if self.components else schema


def _say_what_base64_is(schema: Any) -> None:
    """Add the pattern to all that is encoded so: the encoding alone does not say what is refused."""
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
    The schema of the body of a call, and whether there must be one.

    It is an object with the arguments by name. A method with `*args` or positional-only parameters takes an array, too,
    or an array alone if one of these parameters is required.
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
    """The schema of one argument, with its default if JSON has it and it is no secret."""
    schema = schemas.of(shape.types.get(parameter.name))
    if parameter.default is parameter.empty or is_secret(parameter.name):
        return schema
    try:
        return {**schema, "default": msgspec.json.decode(msgspec.json.encode(parameter.default))}
    except Exception:  # noqa: BLE001 - a default may be anything
        return schema
