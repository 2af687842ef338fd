"""
Sends bytes to another process over a socket and back: the lower limit for the cost of a call to another process.

`bare_socket` starts the processes. Run as a program, this module sends back what arrives on the given sockets.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["bare_socket"]

#: Length in bytes of the size before each message.
_HEAD = 8


@contextmanager
def bare_socket(connections: int = 1) -> Iterator[Callable[[bytes], memoryview]]:
    """
    Yield a function that sends bytes to another process and returns them when they come back.

    Up to *connections* threads may call it at once. There is at most one process for each processor; the processes
    share the connections.
    """
    free: list[socket.socket] = []
    processes = min(connections, len(os.sched_getaffinity(0)))

    def exchange(data: bytes) -> memoryview:
        ours = free.pop()
        size = _HEAD + len(data)
        sent = ours.sendmsg([len(data).to_bytes(_HEAD, "little"), data])
        if sent < size:
            ours.sendall(memoryview(data)[sent - _HEAD :])
        reply = memoryview(bytearray(size))
        _fill(reply, ours)
        free.append(ours)
        return reply[_HEAD:]

    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(connections)]
        for ours, theirs in pairs:
            stack.enter_context(ours)
            stack.enter_context(theirs)
        for first in range(processes):
            ends = [theirs.fileno() for _, theirs in pairs[first::processes]]
            process = subprocess.Popen([sys.executable, __file__, *map(str, ends)], pass_fds=ends)
            stack.callback(process.wait)
            stack.callback(process.kill)
        free += [ours for ours, _ in pairs]
        yield exchange


def _fill(view: memoryview, end: socket.socket) -> None:
    while view:
        read = end.recv_into(view, 0, socket.MSG_WAITALL)
        if not read:
            raise EOFError("the other process has closed the socket")
        view = view[read:]


def _send_back(end: socket.socket) -> None:
    while head := end.recv(_HEAD):
        message = bytearray(_HEAD + int.from_bytes(head, "little"))
        message[:_HEAD] = head
        _fill(memoryview(message)[_HEAD:], end)
        end.sendall(message)


if __name__ == "__main__":
    for descriptor in sys.argv[1:]:
        threading.Thread(target=_send_back, args=(socket.socket(fileno=int(descriptor)),)).start()
