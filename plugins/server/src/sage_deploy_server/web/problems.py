"""Errors for HTTP clients: a status and `application/problem+json` (RFC 9457)."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import Response

from sage_plugins import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Problem", "json_response", "problem_of", "response_of"]

#: Status by class of error. The first match counts.
_STATUS: Final = (
    (errors.ServiceNotFoundError, 404),
    (errors.MethodNotFoundError, 404),
    (errors.OverloadedError, 429),
    (errors.CallTimeoutError, 504),
    (errors.ReplicaDiedError, 502),
    (errors.NoReplicaError, 503),
    (errors.ServiceStoppedError, 503),
    (errors.ConfigError, 422),
    (errors.PlanError, 422),
    (errors.PluginError, 422),
    (errors.DeployError, 409),
)

#: Attributes of an error that the client gets.
_CLIENT_ATTRIBUTES: Final = ("service", "method", "replica", "stage", "retry_after", "maybe_executed")


class Problem(Exception):  # noqa: N818 - it is a problem of the client's request
    """
    An error answer to a request.

    Attributes:
        status: HTTP status.
        code: Class of the error, or an ID of this server.
        detail: What is wrong, and what to do.
        more: Further members of the answer.
    """

    def __init__(self, status: int, code: str, detail: str, **more: Any) -> None:
        """Create an answer with *status*."""
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.more = more


def problem_of(error: BaseException) -> Problem:
    """Convert *error* to a problem. Errors of sage-deploy go by their class; errors of the method are 500."""
    if isinstance(error, Problem):
        return error
    name = type(error).__name__
    for kind, status in _STATUS:
        if isinstance(error, kind):
            attributes = {key: value for key in _CLIENT_ATTRIBUTES if (value := getattr(error, key, None)) is not None}
            return Problem(status, name, str(error), **attributes)
    return Problem(500, name, str(error))


def response_of(problem: Problem, headers: Mapping[str, str]) -> Response:
    """Return the error answer for *problem*."""
    body = {"title": problem.code, "status": problem.status, "code": problem.code, "detail": problem.detail}
    more = dict(headers)
    retry_after = problem.more.get("retry_after")
    if problem.status == 429:  # noqa: PLR2004 - too many requests
        more["Retry-After"] = str(max(1, round(retry_after or 1)))
    if problem.status == 401:  # noqa: PLR2004 - unauthorized
        more["WWW-Authenticate"] = "Bearer"
    return Response(
        msgspec.json.encode(body | problem.more),
        status_code=problem.status,
        headers=more,
        media_type="application/problem+json",
    )


def json_response(value: object, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})) -> Response:
    """Return *value* as an answer in JSON that must not be cached."""
    return Response(
        msgspec.json.encode(value, enc_hook=str), status, {"Cache-Control": "no-store", **headers}, "application/json"
    )
