"""`POST /services/{service}/{method}`: makes one call, or streams results, for each request."""

from __future__ import annotations

import logging
import random
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import ClientDisconnect

from sage_deploy_server.calling.signatures import MethodSignature, call_options_of, encode
from sage_deploy_server.web.bodies import CancelOnDisconnect, read
from sage_deploy_server.web.problems import problem_of, response_of, to_json
from sage_plugins.call.current import CALL_LISTENER, carry
from sage_plugins.errors import MethodNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

    from sage_plugins.call.call import Call
    from sage_plugins.interfaces.operations import Operations
    from sage_plugins.routing.handles.handle import ServiceHandle

__all__ = ["Calls"]

#: Services log below this logger. A failed call is logged among its service's lines, where `sage-deploy logs` shows it.
_SERVICES: Final = logging.getLogger("sage.service")

#: Headers that continue a trace, as in W3C Trace Context and Baggage.
_TRACE_HEADERS: Final = ("traceparent", "tracestate", "baggage")

_JSON: Final = b"application/json"
_BYTES: Final = b"application/octet-stream"
_LINES: Final = b"application/x-ndjson"
_EVENTS: Final = b"text/event-stream"


class Calls:
    """
    ASGI application that calls one environment's services, on its server's event loop.

    The request's scope must have `service` and `method` in `path_params`.
    """

    def __init__(self, operations: Operations, *, max_body: int) -> None:
        """
        Create the application.

        Args:
            operations: The environment.
            max_body: Size limit of a request's body, in bytes.
        """
        self._operations = operations
        self._max_body = max_body
        self._handles: dict[str, ServiceHandle] = {}
        self._signatures: dict[tuple[str, str], tuple[Any, MethodSignature]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Errors become answers too."""
        request_headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = request_headers.get("x-request-id") or _new_id()
        carry(
            request_id=request_id, **{name: request_headers[name] for name in _TRACE_HEADERS if name in request_headers}
        )
        exchange = _HttpExchange(request_headers, request_id, receive, send)
        CALL_LISTENER.set(exchange.note_call)
        service, method = scope["path_params"]["service"], scope["path_params"]["method"]
        try:
            await self._answer(exchange, service, method)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - the client gets any error
            problem = problem_of(error)
            if problem.status == 500:  # noqa: PLR2004 - the method's own error, whose traceback the client does not get
                _SERVICES.getChild(service).error("%s.%s failed", service, method, exc_info=error)
            headers = {"X-Request-Id": request_id, "Cache-Control": "no-store"}
            if timing := exchange.timing():
                headers["Server-Timing"] = timing.decode("latin-1")
            await response_of(problem, headers)(scope, receive, send)

    async def _answer(self, exchange: _HttpExchange, service: str, method: str) -> None:
        options = call_options_of(exchange.request_headers)
        body = await read(exchange.request_headers, exchange.receive, self._max_body)
        handle, called, signature = self._method(service, method)
        args, kwargs = signature.bind(body)
        if options:
            called = getattr(handle.with_options(**options).aio, method)
        found = called(*args, **kwargs)
        if not hasattr(found, "__await__"):
            await self._stream(exchange, found, f"{service}.{method}")
            return
        with CancelOnDisconnect(exchange.receive) as client:
            result = await found
        if client.disconnected:
            return
        if isinstance(result, (bytes, bytearray, memoryview)):
            await exchange.answer(bytes(result), _BYTES)
        else:
            await exchange.answer(encode(result, f"{service}.{method}"), _JSON)

    def _method(self, service: str, method: str) -> tuple[ServiceHandle, Any, MethodSignature]:
        """Return a handle, its method and the method's signature. Cached until the service's class changes."""
        handle = self._handles.get(service)
        if handle is None:
            handle = self._handles[service] = self._operations.service(service)
        called = _method_of(handle, service, method)
        own = getattr(called, "__wrapped__", called)
        function = getattr(own, "__func__", own)
        known = self._signatures.get((service, method))
        if known is None or known[0] is not function:
            # The handle may be bound to replicas of the old class.
            handle = self._handles[service] = self._operations.service(service)
            called = _method_of(handle, service, method)
            known = self._signatures[service, method] = function, MethodSignature(own)
        return handle, called, known[1]

    async def _stream(self, exchange: _HttpExchange, items: AsyncIterator[Any], what: str) -> None:
        """Send items as they come: as lines of JSON, or as server-sent events if the client prefers them."""
        events = "text/event-stream" in exchange.request_headers.get("accept", "")
        media_type = _EVENTS if events else _LINES
        with CancelOnDisconnect(exchange.receive) as client:
            async with aclosing(items):  # type: ignore[type-var] # a stream of the core, which has `aclose`
                started = False
                try:
                    async for item in items:
                        data = encode(item, what)
                        if not started:
                            await exchange.start(media_type)
                            started = True
                        await exchange.send_part(b"data: %b\n\n" % data if events else data + b"\n")
                except Exception as error:
                    if not started:
                        raise
                    problem = problem_of(error)  # the status is sent already, so the stream reports it
                    data = to_json({"code": problem.code, "detail": problem.detail} | problem.more)
                    await exchange.send_part(
                        b"event: error\ndata: %b\n\n" % data if events else b'{"error":%b}\n' % data
                    )
        if client.disconnected:
            return
        if not started:
            await exchange.answer(b"", media_type)
        else:
            await exchange.send({"type": "http.response.body", "body": b""})


def _new_id() -> str:
    """Return a request ID. It is no secret: a system call for real randomness would switch threads."""
    return f"{random.getrandbits(128):032x}"


def _method_of(handle: ServiceHandle, service: str, method: str) -> Any:
    try:
        if not method.startswith("_"):
            return getattr(handle.aio, method)  # the handle itself has other methods, such as `call`
    except MethodNotFoundError:
        raise
    except AttributeError:
        pass
    raise MethodNotFoundError(f"{service} has no method {method!r}", service=service, method=method)


class _HttpExchange:
    """One request and its answer."""

    def __init__(self, request_headers: dict[str, str], request_id: str, receive: Receive, send: Send) -> None:
        self.request_headers = request_headers
        self.receive = receive
        self.send = send
        self._request_id = request_id
        self._call: Call | None = None

    def note_call(self, call: Call) -> None:
        self._call = call

    def timing(self) -> bytes:
        """Return how long the call waited and ran, as the header `Server-Timing`. Empty if unknown."""
        found = None if self._call is None else self._call.timing
        if found is None:
            return b""
        queue, run = b"queue;dur=%.3f" % (found.queue_s * 1e3), found.run_s
        return queue if run is None else b"%b, run;dur=%.3f" % (queue, run * 1e3)

    async def start(self, media_type: bytes, *more: tuple[bytes, bytes]) -> None:
        headers = [
            (b"x-request-id", self._request_id.encode("latin-1")),
            (b"cache-control", b"no-store"),
            (b"content-type", media_type),
            *more,
        ]
        if timing := self.timing():
            headers.append((b"server-timing", timing))
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})

    async def answer(self, body: bytes, media_type: bytes) -> None:
        await self.start(media_type, (b"content-length", b"%d" % len(body)))
        await self.send({"type": "http.response.body", "body": body})

    async def send_part(self, data: bytes) -> None:
        """Send a part of the body. Waits while the client reads too slowly."""
        await self.send({"type": "http.response.body", "body": data, "more_body": True})
