"""
The JSON Schema of a whole deployment file, for the installed plugins.

It rejects what the reader rejects, as far as a schema can: unknown keys and wrong values. The reader and the plan check
the rest: rules between fields, whether profiles, classes and plugins exist, and values from environment variables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sage_deploy_files.describing.field_docs import explain
from sage_deploy_files.describing.schema.fields import field_schema
from sage_deploy_files.describing.schema.options import OptionsSchemas
from sage_deploy_files.describing.schema.values import IDENTIFIER, VARIABLE, VARIABLE_WORDS, either, variable, whole
from sage_plugins.config.service_config import GROUPS, fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sage_plugins.plugins.registry import Registry

__all__ = ["DIALECT", "deployment_schema", "schema_text"]

#: The edition of JSON Schema that the schema uses.
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_NAME: Final = whole("[A-Za-z][A-Za-z0-9_-]{0,62}")

_PATH: Final = rf"{IDENTIFIER}(?:\.{IDENTIFIER})*"

#: The fields whose values are plugin IDs, with the kind of plugin.
_ID_FIELDS: Final[Mapping[str, str]] = {
    "target": "target",
    "threading_strategy": "threading strategy",
    "load_balancer": "load balancer",
    "monitors": "monitor",
}


def deployment_schema(registry: Registry) -> dict[str, Any]:
    """
    Return the JSON Schema (draft 2020-12) of a deployment file. The same plugins always give the same schema.

    If the schema rejects a file, `read` rejects it too, or the plan does if the mistake is in a plugin's options. The
    IDs of registered plugins are suggestions: any other string is valid as an ID.

    Args:
        registry: The plugins whose IDs are suggested and whose options are described. If a plugin's options class
            cannot be loaded, any options are valid, and the description has the reason.

    Returns:
        Plain values, ready for JSON. They belong to the caller.
    """
    docs = {doc.path: doc.doc for doc in explain()[0].walk()}
    options = OptionsSchemas()
    definitions = {f"fields.{name}": field_schema(info, _offered(registry, name)) for name, info in fields().items()}
    definitions["fields.options"] |= options.of_plugins(registry)
    definitions |= {f"groups.{group}": _group(group, docs[group]) for group in GROUPS}
    definitions |= {"service": _service(docs), "defaults": _defaults(docs), "profile": _profile()}
    for_file = options.of_environment(registry)
    definitions |= options.definitions
    return {
        "$schema": DIALECT,
        "title": "Deployment file of sage-deploy",
        "description": "The services, and how each is deployed.",
        "type": "object",
        "properties": {
            "version": {
                "title": "version",
                "description": f"{docs['version']}\nDefault: 1.",
                "default": 1,
                "anyOf": [{"type": "integer", "const": 1}, variable()],
            },
            "services": {
                "title": "services by name",
                "description": docs["services"],
                "type": "object",
                # An empty service has all the defaults.
                **_named({"$ref": "#/$defs/service", "type": ["object", "null"]}),
            },
            "options": {
                "title": "options",
                "description": "Options of plugins for the whole file, by ID.",
                "type": "object",
                **for_file,
            },
            "defaults": {"$ref": "#/$defs/defaults"},
            "profiles": {
                "title": "profiles by name",
                "description": docs["profiles"],
                "type": "object",
                **_named({"$ref": "#/$defs/profile"}),
            },
        },
        "required": ["services"],
        "additionalProperties": False,
        "$defs": dict(sorted(definitions.items())),
    }


def schema_text(registry: Registry) -> str:
    """Return the JSON Schema as text, for a file."""
    import json  # imported here because only this function needs it

    return json.dumps(deployment_schema(registry), indent=2, allow_nan=False)


def _offered(registry: Registry, field: str) -> dict[str, str]:
    """Return the installed IDs for a field, each with the plugin's summary."""
    kind = _ID_FIELDS.get(field)
    return {id: entry.registration.summary for (known, id), entry in registry.entries().items() if known == kind}


def _named(schema: dict[str, Any]) -> dict[str, Any]:
    return {"patternProperties": {_NAME: schema}, "additionalProperties": False}


def _references(group: str | None) -> dict[str, Any]:
    return {name: {"$ref": f"#/$defs/fields.{name}"} for name, info in fields().items() if info.group == group}


def _fields_only(properties: dict[str, Any]) -> dict[str, Any]:
    """Allow only these keys. One level down: otherwise editors that insert the key insert all defaults too."""
    return {"allOf": [{"properties": properties, "additionalProperties": False}]}


def _group(group: str, doc: str) -> dict[str, Any]:
    return {
        "title": f"group {group}",
        "description": f"{doc}\nThe same fields may stand outside the group.",
        "type": "object",
        **_fields_only(_references(group)),
    }


def _configuration() -> dict[str, Any]:
    """Return the keys that services and defaults share. Groups come first, because most files use them."""
    keys = {group: {"$ref": f"#/$defs/groups.{group}"} for group in GROUPS} | _references(None)
    for group in GROUPS:
        keys |= _references(group)
    return keys


def _service(docs: Mapping[str, str]) -> dict[str, Any]:
    return {
        "title": "service",
        "description": "One service: its class, and how it is deployed. Keys that are left out have their defaults.",
        "properties": {
            "class": {
                "title": "class",
                "description": docs["class"],
                "type": "string",
                "pattern": either(whole(f"{_PATH}:{_PATH}"), VARIABLE),
                "errorMessage": f"must be a class, as package.module:Class; {VARIABLE_WORDS}",
            },
            "init": {
                "title": "init",
                "description": docs["init"],
                "type": "object",
                "properties": {
                    "args": {"title": "args", "description": docs["init.args"], "type": "array"},
                    "kwargs": {"title": "kwargs", "description": docs["init.kwargs"], "type": "object"},
                },
                "additionalProperties": False,
            },
            **_configuration(),
        },
        "additionalProperties": False,
    }


def _defaults(docs: Mapping[str, str]) -> dict[str, Any]:
    return {
        "title": "defaults",
        "description": docs["defaults"],
        "type": "object",
        **_fields_only(_configuration()),
    }


def _profile() -> dict[str, Any]:
    return {
        "title": "profile",
        "description": "What differs. Its services override the entries; its defaults override those of the file.",
        "type": "object",
        "properties": {
            "defaults": {"$ref": "#/$defs/defaults"},
            "services": {
                "title": "services by name",
                "description": "Settings of single services in this profile, by name.",
                "type": "object",
                **_named({"$ref": "#/$defs/service", "type": "object"}),
            },
        },
        "additionalProperties": False,
    }
