"""Accepts connections of other processes that call services of this one."""

from __future__ import annotations

import secrets
import threading
from contextlib import suppress
from socket import SHUT_RDWR
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from sage_deploy_remote.driver.address import KEY_BYTES, DriverAddress, receive_key
from sage_deploy_remote.link.serving.pushing import carry_calls
from sage_deploy_remote.rpc.listeners import Listeners, this_machine

if TYPE_CHECKING:
    from socket import socket

    from sage_deploy_remote.link.serving.calls import CallServer
    from sage_deploy_remote.reach.directory import Directory

__all__ = ["DriverListener", "listener_for"]

#: No machine has this name.
_ANOTHER: Final = ""

_listeners: WeakValueDictionary[Directory, DriverListener] = WeakValueDictionary()  # guarded by _lock
_lock = threading.Lock()


def listener_for(directory: Directory) -> DriverListener:
    """Return the listener for all services in *directory*."""
    with _lock:
        listener = _listeners.get(directory)
        if listener is None:
            listener = _listeners[directory] = DriverListener(directory)
        return listener


class DriverListener:
    """
    A Unix socket for callers on this machine, and a TCP port for others if the directory has such callers.

    It opens for the first service, and closes after the last. Thread-safe.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._servers: dict[bytes, CallServer] = {}  # by key; guarded by _lock, as the next two
        self._callers: dict[bytes, set[socket]] = {}  # connected callers, by key
        self._listeners: Listeners | None = None

    def accept_callers(self, server: CallServer) -> DriverAddress:
        """
        Accept callers for *server*, which takes their calls; return the address.

        Raises:
            OSError: Listening fails, or its certificates cannot be read.
        """
        host = self._directory.host()
        with self._lock:
            if self._listeners is None:
                self._listeners = Listeners(lambda: host or "", self._serve_caller, self._directory.certificates)
            near = self._listeners.address_for(this_machine())
            far = None if host is None else self._listeners.address_for(_ANOTHER)
            key = secrets.token_bytes(KEY_BYTES)
            self._servers[key] = server
            self._callers[key] = set()
            return DriverAddress(key, this_machine(), near, far)

    def disconnect_callers(self, key: bytes) -> None:
        """Accept no more callers for the service *key*, and end the connections of its callers."""
        with self._lock:
            del self._servers[key]
            callers = self._callers.pop(key)
            listeners = self._listeners
            if not self._servers:
                self._listeners = None
        if listeners is not None:
            listeners.wait_delivered()
        for end in callers:
            with suppress(OSError):  # it has just ended by itself
                end.shutdown(SHUT_RDWR)
        if listeners is not None and self._listeners is not listeners:
            listeners.close()

    def _serve_caller(self, end: socket) -> None:
        """Take the calls of one caller until the connection ends; runs in a separate thread."""
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
