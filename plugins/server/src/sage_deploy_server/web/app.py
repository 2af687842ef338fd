"""The ASGI application of one environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from sage_deploy_server.web.calls import Calls
from sage_deploy_server.web.metrics import Metrics
from sage_deploy_server.web.openapi import Descriptions
from sage_deploy_server.web.problems import Problem, response_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from sage_plugins.interfaces.operations import Operations

__all__ = ["MAX_BODY", "asgi"]

#: Bytes of a request's body, at most, unless something else is said.
MAX_BODY: Final = 2**20


def asgi(operations: Operations, *, max_body: int = MAX_BODY) -> Starlette:
    """
    An ASGI application that calls the services of an environment; to be mounted into yours, behind your own checks.

    It asks for no token: whoever reaches it can call. `serve` puts that before it.

    Args:
        operations: The environment.
        max_body: Bytes of a request's body, at most.
    """
    calls = Calls(operations, max_body=max_body)
    descriptions = Descriptions(operations, {})

    async def health(_: Request) -> Response:
        return _json({"status": "alive"})

    async def ready(_: Request) -> Response:
        services = operations.status()["services"]
        reasons = {name: said["state"] for name, said in services.items() if said["state"] != "ready"}
        return _json({"ready": not reasons, "not_ready": reasons}, 503 if reasons else 200)

    async def problem(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker: it is registered for these
        found = Problem(error.status_code, "http", error.detail)
        return response_of(found, dict(error.headers or {}))

    return Starlette(
        routes=[
            Route("/services/{service}/{method}", calls.answer, methods=["POST"]),
            *descriptions.routes,
            Route("/metrics", Metrics(operations).answer),
            Route("/healthz", health),
            Route("/readyz", ready),
        ],
        exception_handlers={HTTPException: problem},
    )


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, {"Cache-Control": "no-store"}, "application/json")
