"""The address of a service whose replicas run in the deploying process."""

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

#: Bytes of the key that selects a service of a process.
KEY_BYTES: Final = 16


@attrs.frozen
class DriverAddress:
    """
    The address of one service of the deploying process; can be pickled.

    Attributes:
        key: Selects the service; it is the first thing that a caller sends.
        machine: The machine of the process.
        near: Where the process listens for processes of its machine.
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
            certificates: Certificates of this process, for connections to other machines; None for connections without
                TLS.

        Returns:
            The connection, and the `Address.exact` of its address.

        Raises:
            OSError, EOFError: Nobody listens there, or not for this machine; or the TLS handshake failed.
            AuthenticationError: Another process listens there.
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
        try:
            end.sendall(self.key)
        except BaseException:
            end.close()
            raise
        return end, place.exact


def receive_key(end: socket) -> bytes:
    """Return the key of the service that the connected caller wants; raises OSError."""
    return end.recv(KEY_BYTES, MSG_WAITALL)
