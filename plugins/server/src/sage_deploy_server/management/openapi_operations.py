"""Describes the routes of the management API in the format of OpenAPI."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from sage_deploy_server.recording.history import LONGEST_S
from sage_deploy_server.web.access import LOGIN_LINK

__all__ = ["describe_operation"]

_NUMBER: Final[dict[str, Any]] = {"type": "number", "minimum": 0}

#: Query parameters of the read-only routes, by path.
_QUERIES: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "/api/v1/events": {"after": _NUMBER, "service": {"type": "string"}},
    "/api/v1/logs": {"after": _NUMBER, "service": {"type": "string"}},
    "/api/v1/history": {
        "seconds": {"type": "number", "minimum": 1, "maximum": LONGEST_S},
        "service": {"type": "string"},
    },
    "/api/v1/operations/{id}": {"wait": _NUMBER},
}

#: POST routes without `dry_run`, because they change no service.
_WITHOUT_DRY_RUN: Final = frozenset({"/api/v1/plan", LOGIN_LINK})

_DRY_RUN: Final[dict[str, dict[str, Any]]] = {"dry_run": {"enum": ["0", "1"]}}
_ERRORS: Final = {which: {"$ref": "#/components/responses/problem"} for which in ("4XX", "5XX")}


def describe_operation(path: str, summary: str, body: type[Any] | None) -> dict[str, Any]:
    """
    Return the description of one operation.

    Args:
        path: Path of its route.
        summary: What it does.
        body: msgspec class of its body; None if it is read-only.
    """
    parameters = [
        *(_parameter(name, "path", {"type": "string"}) for name in re.findall(r"{(\w+)}", path)),
        *(
            _parameter(name, "query", schema)
            for name, schema in _query_parameters(path, changes=body is not None).items()
        ),
    ]
    if body is not None and "{service}" in path:
        generation = "The generation that the service must have; else 412."
        parameters.append({**_parameter("If-Match", "header", {"type": "string"}), "description": generation})
    done = "200" if body is None else "2XX"
    name = path.removeprefix("/").replace("/", ".").translate(str.maketrans("", "", "{}"))
    operation: dict[str, Any] = {
        # A path with GET and POST needs two different IDs.
        "operationId": f"{name}.get" if body is None and path in _WITHOUT_DRY_RUN else name,
        "summary": summary,
        "parameters": parameters,
        "responses": {done: {"description": summary, "content": {"application/json": {"schema": {}}}}, **_ERRORS},
    }
    if body is not None:
        # Inline, because the schemas are small and their names could clash with a service's classes.
        schema = next(iter(msgspec.json.schema(body)["$defs"].values()))
        required = len(body.__struct_defaults__) < len(body.__struct_fields__)
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": schema}}}
    return operation


def _query_parameters(path: str, *, changes: bool) -> dict[str, dict[str, Any]]:
    if not changes:
        return _QUERIES.get(path, {})
    return {} if path in _WITHOUT_DRY_RUN else _DRY_RUN


def _parameter(name: str, place: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}
