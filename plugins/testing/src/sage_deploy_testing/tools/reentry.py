"""Interrupts a function at each of its lines, to enter it again as a signal handler may, or to switch threads."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["interrupt", "with_switches"]

#: Long enough for the operating system to run another thread.
_PAUSE_S: Final = 1e-6

_Result = TypeVar("_Result")


def interrupt(function: Callable[[], Any], inner: Callable[[], Any], *, patience: float) -> Any:
    """
    Call *function*, and call *inner* at each line of Python that it runs, in the same thread.

    A signal handler that reads a service's status does the same. If *function* holds a plain lock at such a line, and
    *inner* needs the lock, they deadlock.

    Args:
        function: The function to interrupt.
        inner: The function to call in the middle of it.
        patience: Seconds after which it counts as a deadlock. Its daemon thread is then left running.

    Returns:
        What *function* returns.

    Raises:
        AssertionError: There is a deadlock. The message has the line that was interrupted.
        BaseException: What *function* or *inner* raises.
    """
    where = "its first line"
    outcome: Future[Any] = Future()

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal where
        if event == "line":
            where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            inner()  # the interpreter does not trace it
        return trace

    def body() -> None:
        sys.settrace(trace)
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - the caller gets it
            sys.settrace(None)
            outcome.set_exception(error)
        else:
            sys.settrace(None)
            outcome.set_result(result)

    threading.Thread(target=body, name="interrupted", daemon=True).start()
    try:
        return outcome.result(patience)
    except TimeoutError:
        if outcome.done():  # raised by the function
            raise
        msg = f"interrupted at {where} and entered again there, it waits for itself for {patience:g} s: it holds a lock"
        raise AssertionError(msg) from None


def with_switches(function: Callable[[], _Result]) -> _Result:
    """
    Call *function*, and let other threads run at each line of Python that it runs.

    If several threads do this at the same time, code that is not thread-safe fails reliably instead of once a week.
    """

    def trace(_frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            time.sleep(_PAUSE_S)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return function()
    finally:
        sys.settrace(before)
