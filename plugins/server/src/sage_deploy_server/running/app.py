"""The ASGI application of one environment."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from sage_deploy_server.calling.calls import Calls
from sage_deploy_server.description.metrics import Metrics
from sage_deploy_server.description.openapi import Descriptions
from sage_deploy_server.management.management import Management
from sage_deploy_server.management.stream import Stream
from sage_deploy_server.pages.files import page_routes
from sage_deploy_server.pages.login import login_route
from sage_deploy_server.recording.recorder import Recorder
from sage_deploy_server.web.logins import Logins
from sage_deploy_server.web.problems import Problem, json_response, response_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from sage_plugins.interfaces.operations import Operations

__all__ = ["MAX_BODY", "Application", "asgi"]

#: Default size limit of a request's body, in bytes.
MAX_BODY: Final = 2**20

#: States of a service that has ready replicas.
_SERVING: Final = frozenset({"ready", "degraded"})

#: Number of parts between slashes in `/services/{service}/{method}`.
_PARTS: Final = 4


class Application:
    """
    The ASGI application that answers all requests.

    Attributes:
        asgi: The Starlette application inside it. It answers the same requests, but is slower for calls.
    """

    def __init__(self, operations: Operations, *, max_body: int = MAX_BODY, logins: Logins | None = None) -> None:
        """Create the application. *logins* are those of its `AccessMiddleware`. See `asgi` for the rest."""
        logins = logins or Logins()
        self._operations = operations
        self._closing = False
        self._calls = Calls(operations, max_body=max_body)
        self._recorder = Recorder(operations)
        management = Management(operations, max_body=max_body, logins=logins, recorder=self._recorder)
        self._stream = Stream(management.snapshot)
        self.asgi = Starlette(
            routes=[
                _route_of(self._calls, "/services"),
                *Descriptions(operations, management.paths()).routes,
                Route("/api/v1/stream", self._stream.answer),
                login_route(logins),
                *page_routes(),
                Route("/metrics", Metrics(operations).answer),
                Route("/healthz", self._health),
                Route("/readyz", self._ready),
                *management.routes,
            ],
            exception_handlers={HTTPException: _problem},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Calls bypass Starlette, which would take as long as the call itself."""
        if scope["type"] == "http" and scope["method"] == "POST":
            parts = scope["path"].split("/")
            if len(parts) == _PARTS and parts[1] == "services" and parts[2] and parts[3]:
                scope["path_params"] = {"service": parts[2], "method": parts[3]}
                await self._calls(scope, receive, send)
                return
        await self.asgi(scope, receive, send)

    async def _health(self, _: Request) -> Response:
        return json_response({"status": "alive"})

    def _ready(self, _: Request) -> Response:
        if self._closing:
            return json_response({"ready": False, "not_ready": {}, "reason": "the environment is being closed"}, 503)
        services = self._operations.overview()
        reasons = {name: status["state"] for name, status in services.items() if status["state"] not in _SERVING}
        return json_response({"ready": not reasons, "not_ready": reasons}, 503 if reasons else 200)

    def start(self) -> None:
        """Start recording metrics."""
        self._recorder.start()

    def close(self) -> None:
        """Report not ready from now on, stop recording, and end all streams."""
        self._closing = True
        self._recorder.close()
        self._stream.close()


def asgi(operations: Operations, *, max_body: int = MAX_BODY) -> Starlette:
    """
    Return an ASGI application that calls an environment's services. Mount it into your application.

    `POST /SERVICE/METHOD` below the mount path calls a method. It checks no token: everyone who reaches it can call, so
    put your own checks in front.

    Args:
        operations: The environment.
        max_body: Size limit of a request's body, in bytes.
    """
    calls = Calls(operations, max_body=max_body)
    return Starlette(routes=[_route_of(calls, "")], exception_handlers={HTTPException: _problem})


def _route_of(calls: Calls, prefix: str) -> Route:
    return Route(f"{prefix}/{{service}}/{{method}}", calls, methods=["POST"])


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker: Starlette calls it only with these
    headers = dict(error.headers or {})
    detail = error.detail
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"there is no {request.url.path}"
    elif "Allow" in headers:
        detail = f"{request.url.path} takes {headers['Allow']}, not {request.method}"
    return response_of(Problem(error.status_code, "http", detail), headers)
