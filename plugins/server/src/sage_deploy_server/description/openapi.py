"""Describes what can be called: `GET /services`, `GET /services/{service}` and `GET /openapi.json`."""

from __future__ import annotations

import asyncio
import inspect
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from starlette.responses import Response
from starlette.routing import Route

from sage_deploy_server.calling.signatures import LONGEST_S, MethodSignature
from sage_deploy_server.description.schemas import Schemas, body_schema
from sage_deploy_server.web.problems import problem_of, response_of, to_json
from sage_plugins.errors import SageDeployError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from starlette.requests import Request

    from sage_plugins.interfaces.operations import Operations

__all__ = ["Descriptions", "openapi"]

_BYTES: Final = (bytes, bytearray, memoryview)

_HEADERS: Final = {
    "X-Timeout": (
        {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_S},
        "Seconds from the call to its answer.",
    ),
    "X-Key": ({"type": "string"}, "Calls with equal keys go to the same replica, if the load balancer uses keys."),
    "X-Idempotent": ({"enum": ["true", "false"]}, "Whether the call may run twice."),
    "X-Request-Id": ({"type": "string"}, "Name of the call in logs; made up if missing. The answer has it, too."),
}

_PROBLEM: Final = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "Class of the error, such as OverloadedError."},
        "detail": {"type": "string", "description": "What is wrong, and what to do."},
        "service": {"type": "string"},
        "method": {"type": "string"},
        "stage": {"type": "string", "description": "Where the call was when its time was over: queue or run."},
        "retry_after": {"type": "number", "description": "Seconds to wait before the next try."},
        "maybe_executed": {"type": "boolean", "description": "Whether the method may have run."},
    },
    "required": ["title", "status", "code", "detail"],
}

_COMPONENTS: Final = {
    "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
    "parameters": {
        name: {"name": name, "in": "header", "required": False, "schema": schema, "description": text}
        for name, (schema, text) in _HEADERS.items()
    },
    "responses": {
        "problem": {
            "description": "The error.",
            "headers": {
                "X-Request-Id": {"schema": {"type": "string"}},
                "Retry-After": {"schema": {"type": "integer"}, "description": "With 429: seconds to wait."},
            },
            "content": {"application/problem+json": {"schema": _PROBLEM}},
        }
    },
}
_ERRORS: Final = {which: {"$ref": "#/components/responses/problem"} for which in ("4XX", "5XX")}


def _look(id: str, summary: str, media: str = "application/json", **more: Any) -> dict[str, Any]:
    answers: dict[str, Any] = {"200": {"description": summary, "content": {media: {"schema": {}}}}}
    return {"get": {"operationId": id, "summary": summary, "responses": answers | _ERRORS, **more}}


_SERVICE: Final = {"name": "service", "in": "path", "required": True, "schema": {"type": "string"}}
_OWN_PATHS: Final = {
    "/services": _look("services", "All services, and how their methods are called"),
    "/services/{service}": _look("service", "One service, and how its methods are called", parameters=[_SERVICE]),
    "/openapi.json": _look("openapi", "This description"),
    "/metrics": _look("metrics", "Metrics as Prometheus reads them", "text/plain"),
    "/healthz": _look("healthz", "Whether the server answers", security=[]),
    "/readyz": _look("readyz", "Whether all services are ready", security=[]),
}


class _Method(NamedTuple):
    """A method that clients can call."""

    name: str
    signature: MethodSignature
    text: str

    @property
    def summary(self) -> str:
        return self.text.partition("\n")[0]


class _Service(NamedTuple):
    """A service as callers see it. If it cannot be composed, it has an error and no methods."""

    name: str
    state: str
    error: str | None
    text: str
    methods: Sequence[_Method]


class Descriptions:
    """Answers requests for descriptions. Builds each one again, because classes and services change."""

    def __init__(self, operations: Operations, more_paths: Mapping[str, Any]) -> None:
        """
        Describe the services of *operations*.

        Args:
            operations: The environment.
            more_paths: As for `openapi`.
        """
        self._operations = operations
        self._more_paths = more_paths
        self.routes = [
            Route("/services", partial(_answer, self._all)),
            Route("/services/{service}", partial(_answer, self._one)),
            Route("/openapi.json", partial(_answer, self._openapi)),
        ]

    def _all(self, _: Request) -> Any:
        return {"services": [_to_dict(service) for service in _services(self._operations)]}

    def _one(self, request: Request) -> Any:
        name = request.path_params["service"]
        self._operations.service(name)  # raises for an unknown name, and suggests one
        status = self._operations.status()["services"].get(name, {"state": "elsewhere"})
        return _to_dict(_service(self._operations, name, status))

    def _openapi(self, _: Request) -> Any:
        return openapi(self._operations, self._more_paths)


async def _answer(describe: Callable[[Request], Any], request: Request) -> Response:
    """Return the result of *describe* as JSON. It runs in a thread, because a status may wait for other processes."""
    headers = {"Cache-Control": "no-store"}
    try:
        found = await asyncio.to_thread(describe, request)
    except Exception as error:  # noqa: BLE001 - the client gets any error
        return response_of(problem_of(error), headers)
    return Response(to_json(found), headers=headers, media_type="application/json")


def openapi(operations: Operations, more_paths: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the description of the server in the format of OpenAPI 3.1.

    Args:
        operations: The environment.
        more_paths: Further entries of `paths`.
    """
    services = _services(operations)
    methods = [method for service in services for method in service.methods]
    schemas = Schemas([method.signature for method in methods], "#/components/schemas/{name}")
    paths = {
        quote(f"/services/{service.name}/{method.name}"): {"post": _operation(service, method, schemas)}
        for service in services
        for method in service.methods
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": operations.name, "version": version("sage-deploy")},
        "security": [{"bearer": []}],
        "tags": [{"name": service.name, "description": service.text} for service in services],
        "paths": {**_OWN_PATHS, **paths, **more_paths},
        "components": {**_COMPONENTS, "schemas": schemas.components},
    }


def _operation(service: _Service, method: _Method, schemas: Schemas) -> dict[str, Any]:
    arguments, required = body_schema(method.signature, schemas)
    return {
        "operationId": f"{service.name}.{method.name}",
        "tags": [service.name],
        "summary": method.summary,
        "description": method.text,
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in _HEADERS],
        "requestBody": {"required": required, "content": {"application/json": {"schema": arguments}}},
        "responses": {
            "200": {
                "description": "The items, one after the other." if method.signature.streams else "The result.",
                "headers": {"X-Request-Id": {"schema": {"type": "string"}}},
                "content": _content(method, schemas),
            },
            **_ERRORS,
        },
    }


def _content(method: _Method, schemas: Schemas) -> dict[str, Any]:
    returned = method.signature.types.get("return")
    schema = schemas.of(returned)
    if method.signature.streams:
        return {"application/x-ndjson": {"schema": schema}, "text/event-stream": {"schema": schema}}
    if returned in _BYTES:
        return {"application/octet-stream": {}}
    return {"application/json": {"schema": schema}}


def _to_dict(service: _Service) -> dict[str, Any]:
    """Return one service as `GET /services` shows it. Each schema includes everything it refers to."""
    methods: list[dict[str, Any]] = []
    for method in service.methods:
        schemas = Schemas([method.signature], "#/$defs/{name}")
        methods.append(
            {
                "name": method.name,
                "description": method.text,
                "streams": method.signature.streams,
                "arguments": schemas.with_components(body_schema(method.signature, schemas)[0]),
                "result": schemas.with_components(schemas.of(method.signature.types.get("return"))),
            }
        )
    error = {} if service.error is None else {"error": service.error}
    return {"name": service.name, "state": service.state, "description": service.text, "methods": methods, **error}


def _services(operations: Operations) -> list[_Service]:
    return [_service(operations, name, status) for name, status in operations.status()["services"].items()]


def _service(operations: Operations, name: str, status: Mapping[str, Any]) -> _Service:
    state: str = status["state"]
    if "error" in status:
        return _Service(name, state, status["error"], "", ())
    try:
        handle = operations.service(name).aio
    except SageDeployError as error:  # the service was removed meanwhile
        return _Service(name, state, str(error), "", ())
    methods: list[_Method] = []
    text = ""
    for method in dir(handle):
        if not method.startswith("_"):
            bound = getattr(handle, method)
            own = getattr(bound, "__wrapped__", bound)
            text = _text(getattr(own, "__self__", None))
            methods.append(_Method(method, MethodSignature(own), _text(bound)))
    return _Service(name, state, None, text, methods)


def _text(documented: Any) -> str:
    text = getattr(documented, "__doc__", None)
    return inspect.cleandoc(text) if isinstance(text, str) else ""
