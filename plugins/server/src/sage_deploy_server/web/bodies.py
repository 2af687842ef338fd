"""Bodies of requests, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from sage_deploy_server.web.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["read", "read_as"]

_Body = TypeVar("_Body")


async def read(request: Request, most: int) -> Any:
    """
    The body as JSON, None if there is none; no more than *most* bytes of it are read.

    Raises:
        Problem: 413 if it is larger, 400 if it is not JSON.
    """
    data = await _bytes(request, most)
    if not data.strip():
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
    """
    body = await read(request, most)
    try:
        return msgspec.convert({} if body is None else body, kind)
    except msgspec.ValidationError as error:
        raise Problem(400, "body", f"the body does not fit: {error}") from None


async def _bytes(request: Request, most: int) -> bytes:
    def too_large() -> Problem:
        return Problem(413, "body", f"the body is larger than {most} bytes; raise the option `max_body`")

    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise too_large()
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise too_large()
        parts.append(part)
    return b"".join(parts)
