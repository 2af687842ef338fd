"""Where a replica that was started by other means than a socket listens for callers that have one."""

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
    """The same in all processes that can open each other's Unix sockets, and in no other."""
    try:
        boot = _BOOT.read_text().strip()
    except OSError:  # not Linux
        boot = os.uname().nodename
    try:
        folder = Path(gettempdir()).stat()  # two containers of a machine may have one each
    except OSError:  # so nobody can have a socket there
        return boot
    return f"{boot}:{folder.st_dev}:{folder.st_ino}"


class Listeners:
    """
    The places where one replica listens: a Unix socket for callers on its machine, a port for others. From any thread.

    Each is opened when the first caller asks for it.
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
            host: Gives the address of this machine under which others reach it.
            carry_calls: Given each connection, by a thread of its own; ends when that does.
            certificates: Gives those with which callers of other machines connect; None for connections without TLS.
        """
        self._host = host
        self._carry_calls = carry_calls
        self._certificates = certificates
        self._lock = threading.Lock()
        self._open: dict[bool, RpcServer] = {}  # by whether it is for callers on this machine; guarded by _lock
        self._hidden = False

    def find(self, machine: str) -> Address:
        """
        Where a process on *machine* connects.

        Raises:
            OSError: There can be no such place, or its certificates cannot be read.
        """
        near = machine == this_machine()
        with self._lock:
            if self._hidden:
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

    def hide(self) -> None:
        """Let in nobody else; those who are connected stay so until the process ends."""
        with self._lock:
            self._hidden = True
            for listener in self._open.values():
                listener.hide()

    def close(self) -> None:
        """Let in nobody, and end all connections."""
        self.hide()
        for listener in self._open.values():
            listener.close()

    def deliver(self) -> None:
        """As `RpcServer.deliver`, for all that are connected."""
        with self._lock:
            listeners = list(self._open.values())
        for listener in listeners:
            listener.deliver()


def _refuse(method: str, *_: Any) -> Future[Any]:
    msg = f"{method!r} is not asked over this connection: it is for calls alone"
    raise PermissionError(msg)
