"""Where other processes come in that call services of this one."""

from __future__ import annotations

import secrets
import threading
from contextlib import suppress
from socket import SHUT_RDWR
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from sage_deploy_remote.home.address import KEY_BYTES, HomeAddress, receive_key
from sage_deploy_remote.link.serving.pushing import carry_calls
from sage_deploy_remote.rpc.doors import Doors, this_machine

if TYPE_CHECKING:
    from socket import socket

    from sage_deploy_remote.link.serving.calls import CallServer
    from sage_deploy_remote.reach.directory import Directory

__all__ = ["Door", "door_of"]

#: No machine is called so.
_ANOTHER: Final = ""

_doors: WeakValueDictionary[Directory, Door] = WeakValueDictionary()  # guarded by _lock
_lock = threading.Lock()


def door_of(directory: Directory) -> Door:
    """The door of all services that are found in *directory*."""
    with _lock:
        door = _doors.get(directory)
        if door is None:
            door = _doors[directory] = Door(directory)
        return door


class Door:
    """
    A Unix socket for callers on this machine, and a port for others if there are such. From any thread.

    It is opened for the first service, and closed after the last.
    """

    def __init__(self, directory: Directory) -> None:
        """Listen nowhere yet; *directory* says who is to come in."""
        self._directory = directory
        self._lock = threading.Lock()
        self._servers: dict[bytes, CallServer] = {}  # by key; guarded by _lock, as the next two
        self._callers: dict[bytes, set[socket]] = {}  # likewise: those who are connected
        self._doors: Doors | None = None

    def admit(self, server: CallServer) -> HomeAddress:
        """
        Let callers in to *server*, which takes their calls.

        Raises:
            OSError: Nothing can listen here, or the certificates for that cannot be read.
        """
        host = self._directory.host()
        with self._lock:
            if self._doors is None:
                self._doors = Doors(lambda: host or "", self._carry, self._directory.certificates)
            near = self._doors.find(this_machine())
            far = None if host is None else self._doors.find(_ANOTHER)
            key = secrets.token_bytes(KEY_BYTES)
            self._servers[key] = server
            self._callers[key] = set()
            return HomeAddress(key, this_machine(), near, far)

    def dismiss(self, key: bytes) -> None:
        """Let nobody in any more to the service *key*, and end the connections of who came."""
        with self._lock:
            del self._servers[key]
            callers = self._callers.pop(key)
            doors = self._doors
            if not self._servers:
                self._doors = None
        if doors is not None:
            doors.deliver()
        for end in callers:
            with suppress(OSError):  # it has just ended by itself
                end.shutdown(SHUT_RDWR)
        if doors is not None and self._doors is not doors:
            doors.close()

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
