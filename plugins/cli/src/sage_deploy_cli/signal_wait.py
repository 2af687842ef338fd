"""Waits for signals without missing one."""

from __future__ import annotations

import select
import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["signals_wake"]


@contextmanager
def signals_wake() -> Iterator[Callable[[float | None], None]]:
    """
    Yield a function that waits until a signal with a handler arrives, or for at most the seconds given (None: forever).

    Use it in the main thread only. A signal since the last wait ends the wait too. Python's own waits, such as
    `Event.wait`, miss a signal that arrives just as they begin: its handler runs only after the wait.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)  # noqa: FBT003 - the argument has no keyword
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)

        def wait(seconds: float | None) -> None:
            if select.select([ours], [], [], seconds)[0]:
                ours.recv(1024)

        try:
            yield wait
        finally:
            signal.set_wakeup_fd(before)
