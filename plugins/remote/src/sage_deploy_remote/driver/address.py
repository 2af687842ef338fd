"""How a service is reached in the process that deployed it."""

from __future__ import annotations

from socket import MSG_WAITALL
from typing import TYPE_CHECKING, Final

import attrs

from sage_deploy_remote.rpc.address import Address
from sage_deploy_remote.rpc.listeners import this_machine

if TYPE_CHECKING:
    from socket import socket

    from sage_deploy_remote.rpc.certificates import Certificates

__all__ = ["KEY_BYTES", "DriverAddress", "receive_key"]

#: Of what tells services of one process apart.
KEY_BYTES: Final = 16


@attrs.frozen
class DriverAddress:
    """
    A way to one service of the process that deployed it; picklable.

    Attributes:
        key: Which service: the first thing that is sent.
        machine: That of the process.
        near: Where it listens for processes of that machine.
        far: Where it listens for others; None if it does not.
    """

    key: bytes
    machine: str
    near: Address
    far: Address | None = None

    def connect(self, certificates: Certificates | None = None) -> tuple[socket, bool]:
        """
        Connect to the service; takes a few seconds at most.

        Args:
            certificates: Of this process, for connections to other machines; None for those without TLS.

        Returns:
            The connection, and `Address.exact` of where it leads to.

        Raises:
            OSError, EOFError: Nobody listens, or not for this machine; or there is no agreement on TLS.
            AuthenticationError: It is another process.
        """
        same = self.machine == this_machine()
        place = self.near if same or self.far is None else self.far
        try:
            end = place.connect_socket(certificates)
        except FileNotFoundError as error:
            if same:
                raise
            msg = "it listens for processes of its own machine only"
            raise OSError(msg) from error
        end.sendall(self.key)
        return end, place.exact


def receive_key(end: socket) -> bytes:
    """Which service the connected caller wants; raises OSError."""
    return end.recv(KEY_BYTES, MSG_WAITALL)
