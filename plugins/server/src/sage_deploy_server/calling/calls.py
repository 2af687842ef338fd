"""`POST /services/{service}/{method}`: a call, or a stream, for each request."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import msgspec
from starlette.responses import Response, StreamingResponse

from sage_deploy_server.calling.shapes import Shape, encode, headers_of
from sage_deploy_server.web.bodies import read
from sage_deploy_server.web.problems import problem_of, response_of
from sage_plugins.call.current import REQUEST_ID
from sage_plugins.errors import MethodNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request

    from sage_plugins.interfaces.operations import Operations

__all__ = ["Calls"]

_LOG: Final = logging.getLogger("sage.extension.server")


class Calls:
    """Answers requests with calls of the services of one environment; on the event loop of the server."""

    def __init__(self, operations: Operations, *, max_body: int) -> None:
        """
        Prepare.

        Args:
            operations: The environment.
            max_body: Bytes of a request's body, at most.
        """
        self._operations = operations
        self._max_body = max_body
        self._shapes: dict[tuple[str, str], tuple[Any, Shape]] = {}

    async def answer(self, request: Request) -> Response:
        """The response to one request; every error is an answer, too."""
        request_id = request.headers.get("x-request-id") or uuid4().hex
        REQUEST_ID.set(request_id)  # goes along with the call, and with those that its method makes
        headers = {"X-Request-Id": request_id, "Cache-Control": "no-store"}
        service, method = request.path_params["service"], request.path_params["method"]
        try:
            return await self._call(request, service, method, headers)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is to know
            problem = problem_of(error)
            if problem.status == 500:  # noqa: PLR2004 - the method's own, whose traceback the client does not get
                _LOG.error("%s.%s failed, request %s", service, method, request_id, exc_info=error)
            return response_of(problem, headers)

    async def _call(self, request: Request, service: str, method: str, headers: dict[str, str]) -> Response:
        options = headers_of(request.headers)
        handle = self._operations.service(service)
        body = await read(request, self._max_body)
        shape = self._shape(handle, service, method)
        args, kwargs = shape.bind(body)
        found = getattr((handle.with_options(**options) if options else handle).aio, method)(*args, **kwargs)
        if hasattr(found, "__aiter__"):
            return await self._stream(request, found, f"{service}.{method}", headers)
        result = await _unless_left(request, found)
        if isinstance(result, (bytes, bytearray, memoryview)):
            return Response(bytes(result), headers=headers, media_type="application/octet-stream")
        return Response(encode(result, f"{service}.{method}"), headers=headers, media_type="application/json")

    def _shape(self, handle: Any, service: str, method: str) -> Shape:
        """What the method takes; found out once, and again when the service has another class."""
        if method.startswith("_"):
            raise MethodNotFoundError(f"{service} has no method {method!r}", service=service, method=method)
        try:
            bound = getattr(handle.aio, method)  # the handle itself has methods of its own, such as `call`
        except AttributeError as error:
            if isinstance(error, MethodNotFoundError):
                raise
            raise MethodNotFoundError(f"{service} has no method {method!r}", service=service, method=method) from None
        own = getattr(bound, "__wrapped__", bound)
        known = self._shapes.get((service, method))
        if known is None or getattr(known[0], "__func__", known[0]) is not getattr(own, "__func__", own):
            known = self._shapes[service, method] = own, Shape(own)
        return known[1]

    async def _stream(
        self, request: Request, items: AsyncIterator[Any], what: str, headers: dict[str, str]
    ) -> Response:
        """The items as they come: a line of JSON for each, or server-sent events if the client prefers them."""
        events = "text/event-stream" in request.headers.get("accept", "")
        try:
            first = await _unless_left(request, anext(items))
        except StopAsyncIteration:
            return Response(b"", headers=headers, media_type="text/event-stream" if events else "application/x-ndjson")

        async def lines() -> AsyncIterator[bytes]:
            item = first
            try:
                while True:
                    data = encode(item, what)
                    yield b"data: %b\n\n" % data if events else data + b"\n"
                    item = await anext(items)
            except StopAsyncIteration:
                return
            except Exception as error:  # noqa: BLE001 - the status has been sent, so the stream tells
                problem = problem_of(error)
                data = msgspec.json.encode({"code": problem.code, "detail": problem.detail} | problem.more)
                yield b"event: error\ndata: %b\n\n" % data if events else b'{"error":%b}\n' % data
            finally:
                await _close(items)

        media = "text/event-stream" if events else "application/x-ndjson"
        return StreamingResponse(lines(), headers=headers, media_type=media)


async def _close(items: AsyncIterator[Any]) -> None:
    close: Callable[[], Awaitable[None]] | None = getattr(items, "aclose", None)
    if close is not None:
        await close()


async def _unless_left(request: Request, call: Awaitable[Any]) -> Any:
    """The outcome of *call*; if the client leaves before it, the call is given up."""
    calling = asyncio.ensure_future(call)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((calling, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not calling.done():
            calling.cancel()
        return await calling
    finally:
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
