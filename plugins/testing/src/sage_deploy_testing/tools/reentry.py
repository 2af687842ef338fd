"""Interrupt a function at each of its lines: to enter it again, as a signal may, or to let other threads go on."""

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

#: Long enough to be taken off the processor, so that another thread runs.
_PAUSE_S: Final = 1e-6

_Result = TypeVar("_Result")


def interrupt(function: Callable[[], Any], inner: Callable[[], Any], *, patience: float) -> Any:
    """
    Call *function*, and *inner* at each line of Python that it runs, in the same thread.

    A signal handler that looks at a service does just that. Whatever holds a plain lock at one of these lines waits for
    itself.

    Args:
        function: What is interrupted.
        inner: What is done in the middle of it.
        patience: Seconds after which it counts as waiting for ever; its thread, a daemon, is then left as it is.

    Returns:
        What *function* returns.

    Raises:
        AssertionError: It waits for itself; the message says at which line it was interrupted.
        BaseException: What either of the two raises.
    """
    where = "its first line"
    outcome: Future[Any] = Future()

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal where
        if event == "line":
            where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            inner()  # the interpreter traces nothing meanwhile
        return trace

    def body() -> None:
        sys.settrace(trace)
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - it is for who asked
            sys.settrace(None)
            outcome.set_exception(error)
        else:
            sys.settrace(None)
            outcome.set_result(result)

    threading.Thread(target=body, name="interrupted", daemon=True).start()
    try:
        return outcome.result(patience)
    except TimeoutError:
        if outcome.done():  # it was its own
            raise
        msg = f"interrupted at {where} and entered again there, it waits for itself for {patience:g} s: it holds a lock"
        raise AssertionError(msg) from None


def with_switches(function: Callable[[], _Result]) -> _Result:
    """
    Call *function* and let other threads go on at each line of Python that it runs.

    Threads that do this at the same time meet in the middle of what is not safe from several, with certainty rather
    than once a week.
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
