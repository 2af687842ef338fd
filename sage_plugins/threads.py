"""
Threads of ours that run one thing and end.

They are daemons, because a method that hangs must not keep the interpreter from exiting. For the same reason this is
no `ThreadPoolExecutor`: its threads are joined at exit.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

__all__ = ["future_of", "start_thread"]

_T = TypeVar("_T")


def start_thread(body: Callable[[], Any], name: str, *, context: Context | None = None) -> threading.Thread:
    """
    Run *body* in a daemon thread. What it raises goes to `threading.excepthook`.

    Args:
        body: What to run.
        name: Name of the thread.
        context: Context variables to run it in; None for none.

    Raises:
        RuntimeError: There can be no more threads, or the interpreter is shutting down.
    """
    if context is None:
        thread = threading.Thread(target=body, name=name, daemon=True)
    else:
        thread = threading.Thread(target=context.run, args=(body,), name=name, daemon=True)
    thread.start()
    return thread


def future_of(body: Callable[[], _T], name: str, *, context: Context | None = None) -> Future[_T]:
    """
    Run *body* in a daemon thread; its result, or what it raises, is the future's. See `start_thread`.

    The future cannot be cancelled.
    """
    future: Future[_T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = body()
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever reads the future
            future.set_exception(error)
        else:
            future.set_result(result)

    start_thread(run, name, context=context)
    return future
