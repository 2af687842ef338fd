"""The answering side: accepts connections at an address, or serves one end of a pipe."""

from __future__ import annotations

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_deploy_remote.link.rpc_transport import failed_answer
from sage_deploy_remote.link.sockets.inheritance import closed_in_copies
from sage_deploy_remote.payloads.errors import pack_error
from sage_deploy_remote.rpc.address import PROOF_WITHIN_S, as_socket, hang_up, limited, prepare
from sage_deploy_remote.rpc.messages import HAND_OVER, join, split
from sage_deploy_remote.rpc.proof import authenticate
from sage_plugins.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from socket import socket

    from sage_deploy_remote.rpc.address import Address
    from sage_deploy_remote.rpc.certificates import Certificates
    from sage_deploy_remote.rpc.tls import Tunnel

__all__ = ["RpcServer", "in_threads", "serve"]

#: More than a process has concurrent requests. No request may wait for a thread, because others may wait for it.
_MOST_THREADS: Final = 10_000

#: Number of connections that may wait to be accepted.
_BACKLOG: Final = 64

#: Seconds until the server accepts again after a failure, for example without free file descriptors.
_AGAIN_S: Final = 0.05

#: Seconds to wait for a thread that was told to end; it may be stuck with a suspended process.
_JOIN_S: Final = 1.0

#: Seconds in which TCP must accept what was sent over TLS, and seconds between checks: TCP gives no notice.
_DELIVERED_WITHIN_S: Final = 1.0
_LOOK_AGAIN_S: Final = 0.002


def in_threads(methods: object) -> Callable[..., Future[Any]]:
    """
    Return a function that calls a method of *methods*, each call in a separate thread, so that none delays others.

    Threads are reused. The interpreter joins them when it exits, so a process with a method that may hang must end with
    `os._exit`.
    """
    pool = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="rpc")

    def call(method: str, *arguments: Any) -> Future[Any]:
        return pool.submit(getattr(methods, method), *arguments)

    return call


def serve(
    connection: Connection[Any, Any],
    call: Callable[..., Future[Any]],
    hand_over: Callable[[socket], None] | None = None,
) -> None:
    """
    Answer the requests on *connection* until it ends; the caller closes it.

    Args:
        connection: Leads to an `RpcClient`.
        call: Called with a method's name and arguments; returns a future for the result, and must not block. When the
            connection ends, futures that can be cancelled are cancelled.
        hand_over: Gets the connection if it is not for requests; the connection ends when this returns.
    """
    closed_in_copies(connection)
    sending = threading.Lock()
    waiting: set[Future[Any]] = set()  # changed by single operations, which need no lock
    over = False

    def reply(number: int, done: Future[Any]) -> None:
        waiting.discard(done)
        try:
            message = join(number, (done.result(), None))
        except BaseException as error:  # noqa: BLE001 - any error of the method, or of pickling its result
            message = join(number, (None, pack_error(error, service="", method="", replica=None, node=None)))
        with sending, suppress(OSError):  # nobody reads the reply any more
            if not over:  # else the connection may be closed, and its descriptor reused
                connection.send_bytes(message)

    with suppress(EOFError, OSError):
        while True:
            message = connection.recv_bytes()
            if message == HAND_OVER and hand_over is not None:
                hand_over(as_socket(connection))
                return
            number, body = split(message)
            try:
                method, arguments = pickle.loads(body)  # noqa: S301 - from a process of this deployment
                answer = call(method, *arguments)
            except Exception as error:  # noqa: BLE001 - if a module is missing here, unpickling may raise anything
                answer = failed_answer(error)
            waiting.add(answer)
            answer.add_done_callback(partial(reply, number))
    with sending:
        over = True
    for answer in tuple(waiting):
        answer.cancel()


class RpcServer:
    """
    Listens at an address, and answers connections that know its secret.

    Attributes:
        address: The address for clients, with the port.
    """

    def __init__(
        self,
        address: Address,
        call: Callable[..., Future[Any]],
        hand_over: Callable[[socket], None] | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        """
        Begin to listen.

        Args:
            address: Where to listen.
            call: As for `serve`.
            hand_over: As for `serve`.
            certificates: Certificates with which all connections use TLS; None for none. Not for a Unix socket.

        Raises:
            OSError: The folder or the socket cannot be made, or the certificates cannot be read.
        """
        self._call = call
        self._hand_over = hand_over
        self._certificates = certificates
        if certificates is not None:
            certificates.context(listens=True)  # fail here, because a later client would not learn the reason
        self._lock = threading.Lock()
        self._connections: dict[Connection[Any, Any], threading.Thread] = {}  # guarded by _lock
        self._tunnels: dict[Connection[Any, Any], Tunnel] = {}  # of connections with TLS; guarded by _lock
        self._closing = threading.Event()
        self._listener, address = address.listen(_BACKLOG)
        closed_in_copies(self._listener)
        self.address = attrs.evolve(address, takes_tls=certificates is not None)
        self._thread = start_thread(self._accept, "rpc-accept")

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                end, _ = self._listener.accept()
                prepare(end)
                secured = self._secured(end)
                connection = Connection((end if secured is None else secured.end).detach())
                with self._lock:
                    body = partial(self._serve, connection, secured)
                    self._connections[connection] = start_thread(body, "rpc-serve")
                    if secured is not None:
                        self._tunnels[connection] = secured
            except Exception:  # noqa: BLE001 - the client has gone, or there are no descriptors or threads left
                self._closing.wait(_AGAIN_S)

    def _secured(self, end: socket) -> Tunnel | None:
        """Put the connection *end* under TLS; return None if the server has no certificates."""
        if self._certificates is None:
            return None
        from sage_deploy_remote.rpc.tls import tunnel  # slow to import, and most processes need none

        return tunnel(end, self._certificates, PROOF_WITHIN_S, listens=True)

    def _serve(self, connection: Connection[Any, Any], secured: Tunnel | None) -> None:
        with suppress(AuthenticationError, EOFError, OSError):  # not our client, or it has gone
            key = self.address.key + (b"" if secured is None else secured.ready.result())
            with limited(connection, PROOF_WITHIN_S):
                authenticate(connection, key, listens=True)
            serve(connection, self._call, self._hand_over)
        with self._lock:
            del self._connections[connection]
            self._tunnels.pop(connection, None)
        connection.close()

    def stop_accepting(self) -> None:
        """Accept no more connections; existing ones remain. Idempotent."""
        if not self._closing.is_set():
            self._closing.set()
            with suppress(OSError):
                self.address.dial().close()  # wakes the accepting thread
            self._thread.join(_JOIN_S)
            self._listener.close()
            self.address.remove()

    def wait_delivered(self) -> None:
        """Wait until everything sent arrives even if this process is killed; at most one second."""
        until = time.monotonic() + _DELIVERED_WITHIN_S
        with self._lock:
            tunnels = list(self._tunnels.values())
        while not all(each.delivered() for each in tunnels) and time.monotonic() < until:
            time.sleep(_LOOK_AGAIN_S)

    def close(self) -> None:
        """Accept no more connections, and end all existing ones. Idempotent."""
        self.stop_accepting()
        with self._lock:
            threads = list(self._connections.values())
            for connection in self._connections:
                hang_up(connection)
        for thread in threads:
            thread.join(_JOIN_S)
