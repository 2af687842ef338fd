"""The address at which a process listens, and how to connect to it."""

from __future__ import annotations

import os
import secrets
import socket
import struct
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_deploy_remote.rpc.messages import HAND_OVER
from sage_deploy_remote.rpc.proof import prove

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sage_deploy_remote.rpc.certificates import Certificates

__all__ = ["PROOF_WITHIN_S", "Address", "as_socket", "hang_up", "limited", "prepare"]

#: Timeouts in seconds: for making a connection, and for each side to prove that it knows the secret.
_CONNECT_WITHIN_S: Final = 3.0
PROOF_WITHIN_S: Final = 3

#: Options that detect a machine that is gone: seconds of silence before the first probe, seconds between probes, number
#: of unanswered probes, and milliseconds for which sent bytes may stay unacknowledged.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 11_000))


@attrs.frozen
class Address:
    """
    The address of a listening process; can be pickled.

    Attributes:
        place: Path of a Unix socket, in its own folder that only this user may enter; or host and port.
        key: Secret that both sides prove to know before they read anything else.
        takes_tls: Whether all connections there must use TLS.
    """

    place: str | tuple[str, int]
    key: bytes = attrs.field(repr=False)
    takes_tls: bool = False

    @classmethod
    def new(cls) -> Address:
        """Return a new address with a unique Unix socket; creates nothing."""
        from sage_deploy_remote.rpc.folders import new_path  # only Unix has what it needs

        return cls(new_path(), secrets.token_bytes(32))

    @classmethod
    def on(cls, host: str) -> Address:
        """Return an address for any free port of *host*; `listen` returns the one with the port."""
        return cls((host, 0), secrets.token_bytes(32))

    @property
    def exact(self) -> bool:
        """
        Whether what one side has sent arrives at the other, even if either ends now.

        Between machines it may be lost.
        """
        return isinstance(self.place, str)

    def connect(self, certificates: Certificates | None = None) -> Connection[Any, Any]:
        """
        Connect to the process that listens there; takes a few seconds at most.

        Args:
            certificates: Certificates of this side, for TLS; None for none. Ignored for a Unix socket.

        Raises:
            OSError, EOFError: No process listens there, or the TLS handshake failed.
            AuthenticationError: The process does not know the secret.
        """
        end, binding = self._open(certificates)
        connection = Connection(end.detach())
        try:
            with limited(connection, PROOF_WITHIN_S):
                prove(connection, self.key + binding, listens=False)
        except BaseException:
            connection.close()
            raise
        return connection

    def open(self, certificates: Certificates | None = None) -> socket.socket:
        """Return a connection without proof of the secret; raises OSError, also if the TLS handshake failed."""
        return self._open(certificates)[0]

    def _open(self, certificates: Certificates | None) -> tuple[socket.socket, bytes]:
        """As `open`; also return the bytes to append to the secret on this connection."""
        if certificates is None or isinstance(self.place, str):
            if self.takes_tls:
                msg = "connections there use TLS, and this process has no certificates"
                raise ConnectionError(msg)
            return self.dial(), b""
        if not self.takes_tls:
            msg = "the process there has no certificates, and this process has some: it makes no connection without TLS"
            raise ConnectionError(msg)
        from sage_deploy_remote.rpc.tls import tunnel  # slow to import, and most processes need none

        secured = tunnel(self.dial(), certificates, _CONNECT_WITHIN_S, listens=False)
        try:
            return secured.end, secured.ready.result()
        except BaseException:
            secured.end.close()
            raise

    def dial(self) -> socket.socket:
        """Return a connection on which nothing was sent, not even the TLS handshake; raises OSError."""
        if not isinstance(self.place, str):
            end = socket.create_connection(self.place, _CONNECT_WITHIN_S)
        else:
            end = socket.socket(socket.AF_UNIX)
            try:
                end.settimeout(_CONNECT_WITHIN_S)
                end.connect(self.place)
            except BaseException:
                end.close()
                raise
        end.settimeout(None)
        prepare(end)
        return end

    def connect_socket(self, certificates: Certificates | None = None) -> socket.socket:
        """
        As `connect`, but for a connection that is not for requests.

        Raises:
            OSError, EOFError, AuthenticationError: As for `connect`.
        """
        with self.connect(certificates) as connection:
            connection.send_bytes(HAND_OVER)
            return as_socket(connection)

    def listen(self, backlog: int) -> tuple[socket.socket, Address]:
        """
        Return a socket that listens there, and the address for others, with the port.

        Raises:
            OSError: The folder or the socket cannot be made.
        """
        if not isinstance(self.place, str):
            end = socket.create_server(self.place, backlog=backlog)
            return end, attrs.evolve(self, place=end.getsockname()[:2])
        from sage_deploy_remote.rpc.folders import hold  # as above

        hold(Path(self.place).parent)
        end = socket.socket(socket.AF_UNIX)
        end.bind(self.place)
        end.listen(backlog)
        return end, self

    def remove(self) -> None:
        """Remove the socket and its folder, after the listening process has ended."""
        if isinstance(self.place, str):
            from sage_deploy_remote.rpc.folders import drop  # as above

            drop(Path(self.place).parent)


def prepare(end: socket.socket) -> None:
    """Make a TCP connection send data at once, and end when the machine at its other end is gone."""
    if end.family == socket.AF_UNIX:
        return
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):  # not every system has all of them
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@contextmanager
def limited(connection: Connection[Any, Any], seconds: int) -> Iterator[None]:
    """Make each read and write of *connection* fail with OSError after *seconds*, within the block."""
    with as_socket(connection) as end:
        _limit(end, seconds)
        yield
        _limit(end, 0)


def _limit(end: socket.socket, seconds: int) -> None:
    limit = struct.pack("ll", seconds, 0)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def as_socket(connection: Connection[Any, Any]) -> socket.socket:
    """Return the same connection as a socket, which stays open when *connection* is closed."""
    return socket.socket(fileno=os.dup(connection.fileno()))


def hang_up(connection: Connection[Any, Any]) -> None:
    """Shut down a connection; readers and writers on both sides notice. The caller must still close it."""
    with suppress(OSError), as_socket(connection) as end:
        end.shutdown(socket.SHUT_RDWR)
