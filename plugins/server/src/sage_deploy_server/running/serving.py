"""Runs the server in a thread of the environment's process."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
import time
from contextlib import contextmanager, suppress
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from uvicorn.server import ServerState

from sage_deploy_server.running.addresses import is_loopback, parse
from sage_deploy_server.running.app import MAX_BODY, Application
from sage_deploy_server.web.access import AccessMiddleware
from sage_deploy_server.web.logins import Access, Logins

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sage_plugins.interfaces.operations import Operations

__all__ = ["Server", "serve"]

#: Seconds for accepted requests to finish when the server closes.
_GRACE_S: Final = 30

#: At close, seconds until a client is dropped that does not complete its request or does not read its answer, and
#: seconds between two checks.
_STALL_TIMEOUT_S: Final = 1.0
_STALL_CHECK_S: Final = 0.1


class Server:
    """Answers requests until it is closed. Thread-safe."""

    def __init__(  # noqa: PLR0913 - a server has this many settings
        self,
        operations: Operations,
        *,
        http: tuple[str, int] | None = ("127.0.0.1", 8400),
        unix: socket.socket | None = None,
        token: str = "",
        read_token: str | None = None,
        hosts: Collection[str] = (),
        max_body: int = MAX_BODY,
    ) -> None:
        """
        Start to listen. Returns when the server can be reached.

        Args:
            operations: The environment whose services are called.
            http: Address and port to listen at, with port 0 for a free port; None for no HTTP.
            unix: A listening socket whose clients need no token; None for none. The server closes it at the end.
            token: Token for full access over HTTP. Must not be empty if *http* is given.
            read_token: Token for read-only access; None for none.
            hosts: Further host names under which clients reach this server.
            max_body: Size limit of a request's body, in bytes.

        Raises:
            OSError: The port is taken, or the address does not belong to this machine.
            ValueError: A token is empty.
        """
        operations.logs()  # log lines are kept from the first request for them
        self._logins = Logins()
        self._application = Application(operations, max_body=max_body, logins=self._logins)
        self._servers: list[tuple[_Uvicorn, socket.socket]] = []
        self.address: tuple[str, int] | None = None
        if http is not None:
            guarded = AccessMiddleware(
                self._application, token=token, read_token=read_token, hosts=hosts, logins=self._logins
            )
            listening = _listen(http)
            # The head and body of an answer are written separately. Without this, the body would wait 40 ms for the
            # head's acknowledgement.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.address = listening.getsockname()[:2]
            self._logins.url = _browser_url(self.address, hosts)
            self._servers.append((_server(guarded), listening))
        if unix is not None:
            self._servers.append((_server(self._application), unix))
        self._loop = asyncio.new_event_loop()
        self._drop_task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="sage-deploy-server", daemon=True)
        self._thread.start()
        self._application.start()

    @property
    def url(self) -> str | None:
        """URL of the server, such as `http://127.0.0.1:8400`; None without HTTP."""
        if self.address is None:
            return None
        return _url(*self.address)

    def login_link(self, *, read_only: bool = False) -> str:
        """
        Create a link that logs a browser in, once, within an hour.

        Args:
            read_only: Whether the browser gets read-only access.

        Raises:
            Problem: The server does not answer over HTTP.
        """
        return self._logins.link(Access.READ if read_only else Access.FULL)

    def _run(self) -> None:
        async def serve() -> None:
            # The program handles signals: outside the main thread, uvicorn leaves them alone.
            await asyncio.gather(*(server.serve(sockets=[listening]) for server, listening in self._servers))
            if self._drop_task is not None:
                self._drop_task.cancel()

        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(serve())

    def close(self) -> None:
        """
        Report not ready, answer accepted requests, then end. Idempotent.

        Clients that do not complete their request, or stop reading their answer, are dropped after 1 s.
        """
        self._application.close()
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._end)
        self._thread.join()
        for _, listening in self._servers:
            listening.close()

    def _end(self) -> None:
        for server, _ in self._servers:
            server.end()
        if self._drop_task is None:
            self._drop_task = self._loop.create_task(self._drop_stalled_clients())

    async def _drop_stalled_clients(self) -> None:
        """Break connections whose client leaves its request incomplete, or reads nothing, for `_STALL_TIMEOUT_S`."""
        before: dict[Any, tuple[int, int]] = {}  # unsent bytes, and how often the number was the same
        while True:
            await asyncio.sleep(_STALL_CHECK_S)
            for connection in [each for server, _ in self._servers for each in server.server_state.connections]:
                unread, same = self._unread_bytes(connection), 0
                if unread and before.get(connection, (0, 0))[0] == unread:
                    same = before[connection][1] + 1
                before[connection] = unread, same
                if same * _STALL_CHECK_S >= _STALL_TIMEOUT_S:
                    connection.transport.abort()

    @staticmethod
    def _unread_bytes(connection: Any) -> int:
        """Return the bytes that the client has not read, -1 if its request is incomplete, or 0 if it owes nothing."""
        cycle = connection.cycle
        if cycle is not None and cycle.more_body and not cycle.response_complete:
            return -1
        size: int = connection.transport.get_write_buffer_size()
        return size


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _browser_url(address: tuple[str, int], hosts: Collection[str]) -> str:
    """Return the URL for browsers. If other machines can reach the server, it has a name from *hosts*."""
    host, port = address
    return _url(host if is_loopback(host) else next(iter(hosts), "localhost"), port)


def _listen(address: tuple[str, int]) -> socket.socket:
    try:
        return socket.create_server(address, family=_family(address[0]))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        host, port = address
        raise OSError(
            error.errno, f"port {port} of {host} is in use; choose another port, 0 for any free one"
        ) from None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class _State(ServerState):
    """Builds the header `Date` only when an answer needs it."""

    def __init__(self) -> None:
        self._written: tuple[int, list[tuple[bytes, bytes]]] = 0, []
        super().__init__()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of every answer. The same object within one second."""
        now = int(time.time())
        if self._written[0] != now:
            self._written = now, [(b"date", formatdate(now, usegmt=True).encode())]
        return self._written[1]

    @default_headers.setter
    def default_headers(self, _: list[tuple[bytes, bytes]]) -> None:
        """Ignore the headers that uvicorn sets."""


class _Uvicorn(uvicorn.Server):
    """Wakes only for requests and at its end. uvicorn's own server wakes ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state = _State()
        self._ended = asyncio.Event()

    async def main_loop(self) -> None:
        await self._ended.wait()

    def end(self) -> None:
        self.should_exit = True
        self._ended.set()


def _server(app: Any) -> _Uvicorn:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_GRACE_S,
        server_header=False,
    )
    return _Uvicorn(config)


@contextmanager
def serve(operations: Operations, http: str = "127.0.0.1:8400", *, token: str, **more: Any) -> Iterator[Server]:
    """
    Answer requests for the services of an environment inside a `with` block. The environment continues after it.

    Args:
        operations: The environment.
        http: `HOST:PORT`, or a port alone at the loopback interface.
        token: Token for full access. Must not be empty.
        **more: As for `Server`.

    Raises:
        OSError, ValueError: As `Server`.
    """
    server = Server(operations, http=parse(http), token=token, **more)
    try:
        yield server
    finally:
        server.close()
