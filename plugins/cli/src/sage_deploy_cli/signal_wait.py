"""Waiting for a signal, without missing one."""

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
    Give what waits so many seconds, None for ever, or until a signal comes that has a handler; for the main thread.

    A signal since the last wait counts, too. Python's own waits, such as that for an event, go on if a signal comes in
    the instant in which they begin: its handler runs only after them.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)  # noqa: FBT003 - the only way
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)

        def wait(seconds: float | None) -> None:
            if select.select([ours], [], [], seconds)[0]:
                ours.recv(1024)

        try:
            yield wait
        finally:
            signal.set_wakeup_fd(before)
