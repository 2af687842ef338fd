"""Where a process listens, and how another one connects to it."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from multiprocessing.connection import Client
from pathlib import Path
from socket import SHUT_RDWR, socket
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_deploy_remote.rpc.messages import HAND_OVER

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["Address", "as_socket", "hang_up"]

#: Bytes that the path of a socket may have: 103 on macOS, 107 on Linux.
_LONGEST: Final = 103


@attrs.frozen
class Address:
    """
    A Unix socket in a folder of its own, which only this user may enter; picklable.

    Attributes:
        path: The socket.
        key: A secret that both sides prove to know before they read anything else.
    """

    path: str
    key: bytes = attrs.field(repr=False)

    @classmethod
    def new(cls) -> Address:
        """One that nobody else has; creates nothing."""
        name = f"sage-deploy-{secrets.token_hex(16)}/socket"
        path = str(Path(gettempdir(), name))
        if len(os.fsencode(path)) > _LONGEST:
            path = f"/tmp/{name}"  # noqa: S108 - a folder of its own, which only this user may enter
        return cls(path, secrets.token_bytes(32))

    def connect(self) -> Connection[Any, Any]:
        """
        Connect to the process that listens there.

        Raises:
            OSError, EOFError: No process does.
            AuthenticationError: It does not know the secret.
        """
        return Client(self.path, "AF_UNIX", self.key)

    def connect_socket(self) -> socket:
        """
        As `connect`, for something else than requests.

        Raises:
            OSError, EOFError, AuthenticationError: As for `connect`.
        """
        with self.connect() as connection:
            connection.send_bytes(HAND_OVER)
            return as_socket(connection)

    def remove(self) -> None:
        """Remove the socket and its folder, after the process that listened has ended."""
        shutil.rmtree(Path(self.path).parent, ignore_errors=True)


def as_socket(connection: Connection[Any, Any]) -> socket:
    """The same connection as a socket, which is open when *connection* is closed."""
    return socket(fileno=os.dup(connection.fileno()))


def hang_up(connection: Connection[Any, Any]) -> None:
    """End a connection; whoever reads from it or writes to it on either side finds that. The caller closes it."""
    with suppress(OSError), as_socket(connection) as end:
        end.shutdown(SHUT_RDWR)
