"""Listening sockets that open on request, in replicas that were started without a socket, and in the driver."""

from __future__ import annotations

import os
import threading
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

from sage_deploy_remote.rpc.address import Address
from sage_deploy_remote.rpc.server import RpcServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from socket import socket

    from sage_deploy_remote.rpc.certificates import Certificates

__all__ = ["Listeners", "this_machine"]

_BOOT: Path = Path("/proc/sys/kernel/random/boot_id")


@cache
def this_machine() -> str:
    """Return a text that is equal in processes that can open each other's Unix sockets, and different in others."""
    try:
        boot = _BOOT.read_text().strip()
    except OSError:  # not Linux
        boot = os.uname().nodename
    try:  # two containers of a machine may have different ones
        folder = Path(gettempdir()).stat()  # two containers of a machine may have one each
    except OSError:  # then no process can have a socket there
        return boot
    return f"{boot}:{folder.st_dev}:{folder.st_ino}"


class Listeners:
    """
    Listening sockets of one replica or of the driver: a Unix socket for its machine, a TCP port for others.

    Each is opened when the first caller asks for it. Thread-safe.
    """

    def __init__(
        self,
        host: Callable[[], str],
        carry_calls: Callable[[socket], None],
        certificates: Callable[[], Certificates | None] = lambda: None,
    ) -> None:
        """
        Listen nowhere yet.

        Args:
            host: Returns the address of this machine for other machines.
            carry_calls: Called with each connection, in a separate thread; the connection ends when it returns.
            certificates: Returns the certificates for connections from other machines; None for connections without
                TLS.
        """
        self._host = host
        self._carry_calls = carry_calls
        self._certificates = certificates
        self._lock = threading.Lock()
        self._open: dict[bool, RpcServer] = {}  # by whether it is for this machine's callers; guarded by _lock
        self._stopped = False

    def address_for(self, machine: str) -> Address:
        """
        Return the address for a process on *machine*; listen there if nobody has asked before.

        Raises:
            OSError: The socket cannot be made, or its certificates cannot be read.
        """
        near = machine == this_machine()
        with self._lock:
            if self._stopped:
                msg = "the replica has stopped"
                raise OSError(msg)
            listener = self._open.get(near)
            if listener is None:
                if near:
                    listener = RpcServer(Address.new(), _refuse, self._carry_calls)
                else:
                    address = Address.on(self._host())
                    listener = RpcServer(address, _refuse, self._carry_calls, self._certificates())
                self._open[near] = listener
            return listener.address

    def stop_accepting(self) -> None:
        """Accept no more connections; existing ones remain until the process ends."""
        with self._lock:
            self._stopped = True
            for listener in self._open.values():
                listener.stop_accepting()

    def close(self) -> None:
        """Accept no more connections, and end all existing ones."""
        self.stop_accepting()
        for listener in self._open.values():
            listener.close()

    def wait_delivered(self) -> None:
        """As `RpcServer.wait_delivered`, for all connections."""
        with self._lock:
            listeners = list(self._open.values())
        for listener in listeners:
            listener.wait_delivered()


def _refuse(method: str, *_: Any) -> Future[Any]:
    msg = f"{method!r} is not asked over this connection: it is for calls alone"
    raise PermissionError(msg)
