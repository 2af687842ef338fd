"""Starts a call from a dictionary with SAGE's keys, and answers with a dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from time import time as wall_clock
from typing import TYPE_CHECKING, Any

from sage_plugins.errors import ConfigError, text_of

if TYPE_CHECKING:
    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.routing.handles.handle import ServiceHandle

__all__ = ["start_request"]


def start_request(request: Mapping[str, Any], handle: ServiceHandle, clock: Clock, service: str) -> None:
    """
    Start the call and return at once; see `ServiceTask.handle_request`.

    The response has every error, even one in the request itself.

    Args:
        request: Describes the call.
        handle: Calls the service.
        clock: Measures how long the call takes.
        service: Its name, for messages.

    Raises:
        ConfigError: The request has no `response_queue` with `put`, so there is nowhere to send a response.
    """
    queue: Any = request.get("response_queue") if isinstance(request, Mapping) else None
    if not callable(getattr(queue, "put", None)):
        found = f"its response_queue is {queue!r:.50}" if isinstance(request, Mapping) else f"it is {request!r:.50}"
        msg = f"a request to service '{service}' must be a dictionary with a response_queue that has put(): {found}"
        raise ConfigError(msg)
    started = clock.monotonic()

    def respond(result: Any, error: BaseException | None) -> None:
        queue.put(
            {
                "request_id": request.get("request_id"),
                "result": result,
                "error": None if error is None else text_of(error).partition(": ")[2] or text_of(error),
                "success": error is None,
                "execution_time": clock.monotonic() - started,
                "timestamp": wall_clock(),
            }
        )

    def done(call: Call) -> None:
        error = call.exception_now()
        respond(None if error is not None else call.result(), error)

    try:
        if request.get("timeout") is not None:
            handle = handle.with_options(timeout=request["timeout"])
        call = handle.start(_method(request, service), _args(request, service), _kwargs(request, service))
    except Exception as error:  # noqa: BLE001 - the requester expects every error in the queue
        respond(None, error)
    else:
        call.add_done_callback(done)


def _method(request: Mapping[str, Any], service: str) -> str:
    """
    Return the method that *request* names.

    Raises:
        ConfigError: It names none.
    """
    method = request.get("method_name")
    if not isinstance(method, str) or not method:
        msg = f"the request to service '{service}' has no method_name: {method!r:.50} is no name of a method"
        raise ConfigError(msg)
    return method


def _args(request: Mapping[str, Any], service: str) -> tuple[Any, ...]:
    args = request.get("args") or ()
    if not isinstance(args, (tuple, list)):
        msg = f"the args of a request to service '{service}' must be a tuple or a list, got {args!r:.50}"
        raise ConfigError(msg)
    return tuple(args)


def _kwargs(request: Mapping[str, Any], service: str) -> dict[str, Any]:
    kwargs = request.get("kwargs") or {}
    if not isinstance(kwargs, Mapping):
        msg = f"the kwargs of a request to service '{service}' must be a dictionary, got {kwargs!r:.50}"
        raise ConfigError(msg)
    return dict(kwargs)
