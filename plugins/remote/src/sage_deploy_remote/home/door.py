"""Where other processes come in that call services of this one."""

from __future__ import annotations

import secrets
import threading
from contextlib import suppress
from socket import SHUT_RDWR
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from sage_deploy_remote.home.address import KEY_BYTES, HomeAddress, receive_key
from sage_deploy_remote.link.serving.pushing import carry_calls
from sage_deploy_remote.rpc.address import Address
from sage_deploy_remote.rpc.doors import refuse, this_machine
from sage_deploy_remote.rpc.server import RpcServer

if TYPE_CHECKING:
    from collections.abc import Hashable
    from socket import socket

    from sage_deploy_remote.link.serving.calls import CallServer

__all__ = ["Door", "door_of"]

_doors: WeakValueDictionary[Hashable, Door] = WeakValueDictionary()  # guarded by _lock
_lock = threading.Lock()


def door_of(directory: Hashable) -> Door:
    """The door of all services that are found in *directory*."""
    with _lock:
        door = _doors.get(directory)
        if door is None:
            door = _doors[directory] = Door()
        return door


class Door:
    """
    A Unix socket for callers on this machine, and a port for others if there are such. From any thread.

    It is opened for the first service, and closed after the last.
    """

    def __init__(self) -> None:
        """Listen nowhere yet."""
        self._lock = threading.Lock()
        self._servers: dict[bytes, CallServer] = {}  # by key; guarded by _lock, as the next three
        self._callers: dict[bytes, set[socket]] = {}  # likewise: those who are connected
        self._near: RpcServer | None = None
        self._far: RpcServer | None = None

    def admit(self, server: CallServer, host: str | None) -> HomeAddress:
        """
        Let callers in to *server*.

        Args:
            server: What takes their calls.
            host: The address of this machine for callers on others; None if there are none.

        Raises:
            OSError: Nothing can listen here.
        """
        with self._lock:
            if self._near is None:
                self._near = RpcServer(Address.new(), refuse, self._carry)
            if self._far is None and host is not None:
                self._far = RpcServer(Address.on(host), refuse, self._carry)
            key = secrets.token_bytes(KEY_BYTES)
            self._servers[key] = server
            self._callers[key] = set()
            far = None if host is None or self._far is None else self._far.address
            return HomeAddress(key, this_machine(), self._near.address, far)

    def dismiss(self, key: bytes) -> None:
        """Let nobody in any more to the service *key*, and end the connections of who came."""
        with self._lock:
            del self._servers[key]
            callers = self._callers.pop(key)
            closing = [] if self._servers else [door for door in (self._near, self._far) if door is not None]
            if closing:
                self._near = self._far = None
        for end in callers:
            with suppress(OSError):  # it has just ended by itself
                end.shutdown(SHUT_RDWR)
        for door in closing:
            door.close()

    def _carry(self, end: socket) -> None:
        """Take the calls of one caller, in a thread of its own, until the connection ends."""
        try:
            key = receive_key(end)
        except OSError:
            key = b""
        with self._lock:
            server = self._servers.get(key)
            if server is not None:
                self._callers[key].add(end)
        if server is None:
            end.close()
            return
        try:
            carry_calls(lambda: server, end)
        finally:
            with self._lock:
                self._callers.get(key, set()).discard(end)
