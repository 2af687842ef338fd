"""A base for transports that carry calls over a socket, and other requests as `RpcTransport` does."""

from __future__ import annotations

import pickle
import threading
import weakref
from typing import TYPE_CHECKING

from sage_deploy_remote.link.protocol import Response
from sage_deploy_remote.link.rpc_transport import RpcTransport
from sage_deploy_remote.link.sockets.attachments import Attachments
from sage_deploy_remote.link.sockets.connection_reader import ConnectionReader
from sage_deploy_remote.link.sockets.journal import Journal
from sage_deploy_remote.link.sockets.message_socket import MessageSocket
from sage_deploy_remote.link.sockets.messages import pickled

if TYPE_CHECKING:
    from socket import socket

    from sage_deploy_remote.link.dispatcher import Dispatcher
    from sage_deploy_remote.link.protocol import Frame
    from sage_deploy_remote.link.sockets.attachments import Carrier
    from sage_deploy_remote.link.sockets.messages import Message
    from sage_deploy_remote.link.transport import Exchange
    from sage_plugins.call.call import Call

__all__ = ["SocketTransport"]


class SocketTransport(RpcTransport):
    """
    A base for transports that may carry calls over a socket.

    A subclass adds what `RpcTransport` requires, and may call `use_connection` before a call is sent. From then on,
    calls go over the socket, and requests still go the subclass's own way. Without `use_connection`, calls are requests
    too.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        """As `RpcTransport`."""
        super().__init__(dispatcher)
        self._connection_reader: ConnectionReader | None = None
        self._calls_ended = False
        self._calls_lock = threading.Lock()  # guards the two above

    def use_connection(self, end: socket, replica: str, carrier: Carrier | None = None, *, exact: bool) -> None:
        """
        Use a connection for calls.

        Args:
            end: This side of the connection; at the other side is `serving.pushing.carry_calls`.
            replica: The replica's ID.
            carrier: Carries references; None if there are none.
            exact: As `Transport.exact`; take it from `Address.exact` of the connection's address.
        """
        self._journal = Journal.offer(end) if exact else Journal.refuse(end)
        self._socket = MessageSocket(end)
        self._attachments = Attachments(carrier)
        self._loss_error: BaseException | None = None
        connection_reader = ConnectionReader(
            self._socket, f"{replica}-reader", self._arrived, self._end_connection, self._awaited
        )
        weakref.finalize(self, _free, self._socket, self._journal).atexit = False
        with self._calls_lock:
            self._connection_reader = connection_reader
            self.exact = self._journal is not None
            self.pushes = True
            late = self._calls_ended
        if late:
            connection_reader.close()

    def _awaited(self) -> int:
        return self.receiver.awaited

    def _arrived(self, message: Message, reader: Call | None) -> None:
        body, buffers = message
        response = pickle.loads(body, buffers=buffers)  # noqa: S301 - from a replica
        self.receiver.arrived(self._attachments.response_from_plain(response), reader)

    def _end_connection(self, error: BaseException) -> None:
        try:
            self.connection_ended(error)
        finally:
            if self._journal is not None:
                self._journal.free()

    def connection_ended(self, error: BaseException) -> None:
        """Handle that the connection has ended with *error*, after everything that came over it was read."""
        if self._journal is not None:
            self.receiver.arrived(Response(*self._journal.close()))
        super().lost(self._loss_error or error)

    def lost(self, error: BaseException) -> None:
        """As `RpcTransport.lost`, but first read what came over the socket before."""
        connection_reader = self._connection_reader
        if connection_reader is None:
            super().lost(error)
        else:
            self._loss_error = error
            connection_reader.finish()

    def exchange(self, frame: Frame) -> Exchange:
        """As `Transport.exchange`."""
        connection_reader = self._connection_reader
        if connection_reader is None:
            return super().exchange(frame)
        if not self._socket.send(*pickled(self._attachments.frame_to_plain(frame))):
            self.receiver.frame_not_arrived(frame)
            connection_reader.finish()
        return connection_reader

    def leave(self) -> None:
        """As `Transport.leave`."""
        super().leave()
        self.end_calls()

    def end_calls(self) -> None:
        """Take no more calls; for `end` and `leave`."""
        with self._calls_lock:
            self._calls_ended = True
            connection_reader = self._connection_reader
        if connection_reader is not None:
            connection_reader.close()


def _free(message_socket: MessageSocket, journal: Journal | None) -> None:
    message_socket.close()
    if journal is not None:
        journal.free()
