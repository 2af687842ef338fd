"""A base for transports that carry calls over a socket, beside the requests of an `rpc_transport.RpcTransport`."""

from __future__ import annotations

import pickle
import weakref
from typing import TYPE_CHECKING

from sage_deploy_remote.link.protocol import Response
from sage_deploy_remote.link.rpc_transport import RpcTransport
from sage_deploy_remote.link.sockets.channel import Channel
from sage_deploy_remote.link.sockets.messages import apart, pickled
from sage_deploy_remote.link.sockets.stream import Stream
from sage_plugins.threads import CALLBACKS

if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket

    from sage_deploy_remote.link.protocol import Frame
    from sage_deploy_remote.link.sockets.messages import Message
    from sage_plugins.call.call import Call

__all__ = ["SocketTransport"]


class SocketTransport(RpcTransport):
    """
    A base for transports: a subclass has what one of `RpcTransport` has, and calls `carry_over` before it is started.

    Requests go the subclass's own way, calls over the socket.
    """

    pushes = True

    def carry_over(self, end: socket | None, replica: str) -> Stream:
        """
        Have calls go over a connection.

        Args:
            end: This side of it; at the other side is `serving.pushing.carry_calls`. None if it is still to be made.
            replica: Its ID.

        Returns:
            Whom to tell that the connection is there, or cannot be made.
        """
        stream = self._stream = Stream(end)
        self._why: BaseException | None = None
        self._channel = Channel(stream, f"{replica}-reader", self._arrived, self._connection_ended, self._awaited)
        weakref.finalize(self, stream.close).atexit = False
        return stream

    def connect(self, connect: Callable[[], socket], replica: str) -> None:
        """As `carry_over`, over a connection that *connect* makes, in a thread of its own."""
        stream = self.carry_over(None, replica)

        def run() -> None:
            try:
                end = connect()
            except Exception as error:  # noqa: BLE001 - nobody listens, or it is another one
                stream.failed(error)
            else:
                stream.connected(end)

        CALLBACKS.run(run)

    def _awaited(self) -> int:
        return self.receiver.awaited

    def _arrived(self, message: Message, driver: Call | None) -> None:
        body, buffers = message
        self.receiver.arrived(Response(*pickle.loads(body, buffers=buffers)), driver)  # noqa: S301 - from a replica

    def _connection_ended(self, error: Exception) -> None:
        if not self._stream.made:
            self.receiver.unarrived()
        super().lost(self._why or error)

    def lost(self, error: BaseException) -> None:
        """As `RpcTransport.lost`; what has come over the socket before is read first."""
        self._why = error
        self._channel.finish()

    def exchange(self, frame: Frame) -> Channel:
        """As `Transport.exchange`."""
        if not self._stream.send(*pickled(frame.plain(apart))):
            self.receiver.unarrived(frame)
            self._channel.finish()
        return self._channel

    def end_calls(self) -> None:
        """Have no more calls; for `end`."""
        self._channel.close()
