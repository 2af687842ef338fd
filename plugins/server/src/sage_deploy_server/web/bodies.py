"""Bodies of requests, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect

from sage_deploy_server.web.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.types import Receive

__all__ = ["read", "read_as"]

_Body = TypeVar("_Body")


async def read(headers: Mapping[str, str], receive: Receive, most: int) -> Any:
    """
    The body of a request as JSON, None if there is none; no more than *most* bytes of it are read.

    Raises:
        Problem: 413 if it is larger, 400 if it is not JSON.
        ClientDisconnect: The client has left.
    """
    data = await _bytes(headers, receive, most)
    if not data or data.isspace():
        return None
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Problem(400, "json", f"the body is not JSON: {error}") from None


async def read_as(kind: type[_Body], request: Request, most: int) -> _Body:
    """
    The body as an object of *kind*, a class of msgspec; one without fields if there is none.

    Raises:
        Problem: 413 if it is larger than *most* bytes, 400 if it is something else.
        ClientDisconnect: The client has left.
    """
    body = await read(request.headers, request.receive, most)
    try:
        return msgspec.convert({} if body is None else body, kind)
    except msgspec.ValidationError as error:
        raise Problem(400, "body", f"the body does not fit: {error}") from None


async def _bytes(headers: Mapping[str, str], receive: Receive, most: int) -> bytes:
    def too_large() -> Problem:
        return Problem(413, "body", f"the body is larger than {most} bytes; raise the option `max_body`")

    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise too_large()
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > most:
            raise too_large()
        if not message.get("more_body", False):
            return b"".join((*parts, part)) if parts else part
        parts.append(part)
