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
    Calls a function on a loop soon after `ring`.

    `call_soon_threadsafe` creates a handle with a copy of the context. The loop then empties its self-pipe by reading
    until nothing is left: two system calls and an exception before a task's first step. Here the loop calls the
    function directly when the socket is readable, and one read follows after the work.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, heard: Callable[[], None]) -> None:
        """
        Call *heard* on *loop* whenever the bell rings, until *heard* calls `silence`.

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
        """Call the function soon. Safe from any thread. No effect after the loop has ended."""
        try:
            if self._ear is None:
                self._loop.call_soon_threadsafe(self._heard)
            else:
                self._clapper.send(b"\0")
        except (OSError, RuntimeError):  # closed, or full, which means that it is ringing already
            return

    def silence(self) -> None:
        """Do not call the function again for earlier rings. Call it on the loop."""
        if self._ear is not None:
            with suppress(BlockingIOError):
                self._ear.recv(64)

    def close(self) -> None:
        """Close the sockets. Call it on the loop. Idempotent."""
        if self._ear is not None:
            self._loop.remove_reader(self._ear)
            self._ear.close()
        self._clapper.close()
