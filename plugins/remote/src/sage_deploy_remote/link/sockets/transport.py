"""A base for transports that carry calls over a socket, and other requests as `RpcTransport` does."""

from __future__ import annotations

import pickle
import threading
import weakref
from typing import TYPE_CHECKING

from sage_deploy_remote.link.protocol import Response
from sage_deploy_remote.link.rpc_transport import RpcTransport
from sage_deploy_remote.link.sockets.attachments import Attachments
from sage_deploy_remote.link.sockets.channel import Channel
from sage_deploy_remote.link.sockets.journal import Journal
from sage_deploy_remote.link.sockets.messages import pickled
from sage_deploy_remote.link.sockets.stream import Stream

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

    A subclass adds what `RpcTransport` requires, and may call `carry_over` before a call is sent. From then on, calls
    go over the socket, and requests still go the subclass's own way. Without `carry_over`, calls are requests too.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        """As `RpcTransport`."""
        super().__init__(dispatcher)
        self._channel: Channel | None = None
        self._ended_calls = False
        self._deciding = threading.Lock()  # guards the two above

    def carry_over(self, end: socket, replica: str, carrier: Carrier | None = None, *, exact: bool) -> None:
        """
        Use a connection for calls.

        Args:
            end: This side of the connection; at the other side is `serving.pushing.carry_calls`.
            replica: ID of the replica.
            carrier: Carries references; None if there are none.
            exact: As `Transport.exact`; take it from `Address.exact` of the connection's address.
        """
        self._journal = Journal.offer(end) if exact else Journal.refuse(end)
        self._stream = Stream(end)
        self._attachments = Attachments(carrier)
        self._why: BaseException | None = None
        channel = Channel(self._stream, f"{replica}-reader", self._arrived, self._over, self._awaited)
        weakref.finalize(self, _free, self._stream, self._journal).atexit = False
        with self._deciding:
            self._channel = channel
            self.exact = self._journal is not None
            self.pushes = True
            late = self._ended_calls
        if late:
            channel.close()

    def _awaited(self) -> int:
        return self.receiver.awaited

    def _arrived(self, message: Message, reader: Call | None) -> None:
        body, buffers = message
        response = pickle.loads(body, buffers=buffers)  # noqa: S301 - from a replica
        self.receiver.arrived(self._attachments.to_response(response), reader)

    def _over(self, error: BaseException) -> None:
        try:
            self.connection_ended(error)
        finally:
            if self._journal is not None:
                self._journal.free()

    def connection_ended(self, error: BaseException) -> None:
        """Handle that the connection has ended with *error*, after everything that came over it was read."""
        if self._journal is not None:
            self.receiver.arrived(Response(*self._journal.close()))
        super().lost(self._why or error)

    def lost(self, error: BaseException) -> None:
        """As `RpcTransport.lost`, but first read what came over the socket before."""
        channel = self._channel
        if channel is None:
            super().lost(error)
        else:
            self._why = error
            channel.finish()

    def exchange(self, frame: Frame) -> Exchange:
        """As `Transport.exchange`."""
        channel = self._channel
        if channel is None:
            return super().exchange(frame)
        if not self._stream.send(*pickled(self._attachments.of_frame(frame))):
            self.receiver.unarrived(frame)
            channel.finish()
        return channel

    def leave(self) -> None:
        """As `Transport.leave`."""
        super().leave()
        self.end_calls()

    def end_calls(self) -> None:
        """Take no more calls; for `end` and `leave`."""
        with self._deciding:
            self._ended_calls = True
            channel = self._channel
        if channel is not None:
            channel.close()


def _free(stream: Stream, journal: Journal | None) -> None:
    stream.close()
    if journal is not None:
        journal.free()
