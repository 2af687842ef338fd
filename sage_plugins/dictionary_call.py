"""A call that a dictionary describes and that a dictionary answers, with SAGE's keys."""

from __future__ import annotations

from time import time as wall_clock
from typing import TYPE_CHECKING, Any

from sage_plugins.errors import text_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sage_plugins.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.handle import ServiceHandle

__all__ = ["start"]


def start(request: Mapping[str, Any], handle: ServiceHandle, clock: Clock) -> None:
    """
    Start the call and return at once; see `ServiceTask.handle_request`.

    Whatever goes wrong is in the response, also what is wrong with the request itself.

    Args:
        request: Describes the call.
        handle: Calls the service.
        clock: Measures how long the call takes.

    Raises:
        KeyError: The request has no `response_queue` to which an error could go.
    """
    queue = request["response_queue"]
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
        call = handle.start(request["method_name"], tuple(request.get("args", ())), dict(request.get("kwargs") or {}))
    except Exception as error:  # noqa: BLE001 - the caller of a request looks for it in the queue
        respond(None, error)
    else:
        call.add_done_callback(done)
