"""Wakes an event loop from another thread, at a lower cost than `call_soon_threadsafe`."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["LoopWaker"]


class LoopWaker:
    """
    Calls a function on a loop soon after `wake`.

    `call_soon_threadsafe` creates a handle with a copy of the context. The loop then empties its self-pipe by reading
    until nothing is left: two system calls and an exception before a task's first step. Here the loop calls the
    function directly when the socket is readable, and one read follows after the work.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, woken: Callable[[], None]) -> None:
        """
        Call *woken* on *loop* after each `wake`, until *woken* calls `clear`.

        Args:
            loop: Need not run yet.
            woken: Must not raise.
        """
        self._loop = loop
        self._woken = woken
        self._receiver: socket.socket | None
        self._receiver, self._sender = socket.socketpair()
        for end in (self._receiver, self._sender):
            end.settimeout(0)
        try:
            loop.add_reader(self._receiver, woken)
        except NotImplementedError:  # the proactor loop of Windows
            self._receiver.close()
            self._receiver = None

    def wake(self) -> None:
        """Call the function soon. Thread-safe. No effect after the loop has ended."""
        try:
            if self._receiver is None:
                self._loop.call_soon_threadsafe(self._woken)
            else:
                self._sender.send(b"\0")
        except (OSError, RuntimeError):  # closed, or full, which means that the loop will wake anyway
            return

    def clear(self) -> None:
        """Do not call the function again for earlier `wake`s. Call it on the loop."""
        if self._receiver is not None:
            with suppress(BlockingIOError):
                self._receiver.recv(64)

    def close(self) -> None:
        """Close the sockets. Call it on the loop. Idempotent."""
        if self._receiver is not None:
            self._loop.remove_reader(self._receiver)
            self._receiver.close()
        self._sender.close()
