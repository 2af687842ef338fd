"""Reads request bodies as JSON, and notices when a client disconnects."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import msgspec
from starlette.requests import ClientDisconnect

from sage_deploy_server.web.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from starlette.requests import Request
    from starlette.types import Receive

__all__ = ["DISCONNECT_CHECK_AFTER_S", "CancelOnDisconnect", "read", "read_as"]

_Body = TypeVar("_Body")

#: Seconds until the check for a disconnected client starts. Most calls have ended by then, and so need no task for it.
DISCONNECT_CHECK_AFTER_S: Final = 0.02


async def read(headers: Mapping[str, str], receive: Receive, max_bytes: int) -> Any:
    """
    Read the body of a request as JSON. None if there is no body. Reads at most *max_bytes* bytes.

    Raises:
        Problem: 413 if the body is larger; 400 if it is not JSON or is null.
        ClientDisconnect: The client has disconnected.
    """
    data = await _bytes(headers, receive, max_bytes)
    if not data or data.isspace():
        return None
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Problem(400, "json", f"the body is not JSON: {error}") from None
    if body is None:
        raise Problem(400, "json", "the body is null: send an empty body, or the arguments")
    return body


async def read_as(kind: type[_Body], request: Request, max_bytes: int) -> _Body:
    """
    Read the body as an object of the msgspec class *kind*. Without a body, all fields have their defaults.

    Raises:
        Problem: 413 if the body is larger than *max_bytes* bytes; 400 if it does not fit.
        ClientDisconnect: The client has disconnected.
    """
    body = await read(request.headers, request.receive, max_bytes)
    try:
        return msgspec.convert({} if body is None else body, kind)
    except msgspec.ValidationError as error:
        raise Problem(400, "body", f"the body does not fit: {error}") from None


async def _bytes(headers: Mapping[str, str], receive: Receive, max_bytes: int) -> bytes:
    def too_large() -> Problem:
        return Problem(413, "body", f"the body is larger than {max_bytes} bytes; raise the option `max_body`")

    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise too_large()
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise too_large()
        if not message.get("more_body", False):
            return b"".join((*parts, part)) if parts else part
        parts.append(part)


class CancelOnDisconnect:
    """
    A `with` block that is cancelled if the client disconnects. It then ends without an error.

    Attributes:
        disconnected: Whether the client has disconnected.
    """

    def __init__(self, receive: Receive) -> None:
        """Watch the request whose messages *receive* returns. Its body must have been read."""
        self.disconnected = False
        self._receive = receive
        self._check: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        """Start watching. The current task is the one to cancel."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task(self._loop)
        self._timer = self._loop.call_later(DISCONNECT_CHECK_AFTER_S, self._start_check)
        return self

    def _start_check(self) -> None:
        self._check = self._loop.create_task(self._wait_for_disconnect())

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.disconnected = True
        assert self._task is not None  # noqa: S101 - for the type checker: a task answers each request
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._timer.cancel()
        if self._check is not None:
            self._check.cancel()
        if not self.disconnected:
            return False
        assert self._task is not None  # noqa: S101 - as above
        # If somebody else cancelled the task too, this block must not hide that.
        return self._task.uncancel() == 0 and kind is asyncio.CancelledError
