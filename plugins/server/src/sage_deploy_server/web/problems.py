"""Errors for HTTP clients: a status and `application/problem+json` (RFC 9457)."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import Response

from sage_plugins import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Problem", "json_response", "problem_of", "response_of", "to_json"]

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
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may do anything
        text = "its text cannot be read"
    return Problem(500, name, text)


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
        to_json(body | problem.more),
        status_code=problem.status,
        headers=more,
        media_type="application/problem+json",
    )


def json_response(value: object, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})) -> Response:
    """Return *value* as an answer in JSON that must not be cached."""
    return Response(to_json(value), status, {"Cache-Control": "no-store", **headers}, "application/json")


def to_json(value: object) -> bytes:
    r"""
    Return *value* as JSON. Objects that JSON does not have become text.

    Text may come from anywhere, and so hold halves of surrogate pairs, which UTF-8 does not have: Python reads a file
    name that is not UTF-8 so. They are escaped, as `\udcff`.
    """
    try:
        return msgspec.json.encode(value, enc_hook=str)
    except UnicodeEncodeError:
        return msgspec.json.encode(_without_surrogates(msgspec.to_builtins(value, enc_hook=str)))


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_without_surrogates(name): _without_surrogates(each) for name, each in value.items()}
    return [_without_surrogates(each) for each in value] if isinstance(value, list) else value
