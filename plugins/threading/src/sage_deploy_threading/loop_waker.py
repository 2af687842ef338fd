"""Waking an event loop from another thread, for less than `call_soon_threadsafe` costs."""

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
    Has a function called on a loop soon after `ring`.

    `call_soon_threadsafe` makes a handle with a copy of the context, and the loop empties its self-pipe by reading
    until there is nothing left: two system calls and an exception, before the first step of a task. Here the function
    itself is what the loop calls when the socket can be read, and one read comes after the work.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, heard: Callable[[], None]) -> None:
        """
        Have *heard* called on *loop* whenever the bell rings, until it calls `silence`.

        Args:
            loop: Need not run yet.
            heard: Must not raise.
        """
        self._loop = loop
        self._heard = heard
        self._ear: socket.socket | None
        self._ear, self._clapper = socket.socketpair()
        for end in (self._ear, self._clapper):
            end.settimeout(0)
        try:
            loop.add_reader(self._ear, heard)
        except NotImplementedError:  # the proactor loop of Windows
            self._ear.close()
            self._ear = None

    def ring(self) -> None:
        """Call the function soon; from any thread, and without effect once the loop has ended."""
        try:
            if self._ear is None:
                self._loop.call_soon_threadsafe(self._heard)
            else:
                self._clapper.send(b"\0")
        except (OSError, RuntimeError):  # closed; or full, so it rings already
            return

    def silence(self) -> None:
        """Do not call the function again for what has rung so far; on the loop."""
        if self._ear is not None:
            with suppress(BlockingIOError):
                self._ear.recv(64)

    def close(self) -> None:
        """Give the sockets back; on the loop. Idempotent."""
        if self._ear is not None:
            self._loop.remove_reader(self._ear)
            self._ear.close()
        self._clapper.close()
