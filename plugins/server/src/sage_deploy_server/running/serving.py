"""A server in a thread of the environment's process."""

from __future__ import annotations

import asyncio
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
from sage_deploy_server.web.access import Gate
from sage_deploy_server.web.logins import Access, Logins

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sage_plugins.interfaces.operations import Operations

__all__ = ["Server", "serve"]

#: Seconds within which accepted requests are answered at the end.
_GRACE_S: Final = 30

#: Seconds at the end without a byte from or to a client after which it is waited for no longer, and between two looks.
_SILENT_S: Final = 1.0
_LOOK_S: Final = 0.1


class Server:
    """Answers requests until it is closed. All methods are safe from any thread."""

    def __init__(  # noqa: PLR0913 - as many things can be said of it
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
        Listen; returns once it can be reached.

        Args:
            operations: The environment whose services are called.
            http: Address and port to listen at, port 0 for a free one; None for none.
            unix: A listening socket whose clients need no token; it is closed with the server. None for none.
            token: Lets in those who come over HTTP; must not be empty if *http* is given.
            read_token: Lets in those who only look; None for nobody.
            hosts: Further names under which clients know this server.
            max_body: Bytes of a request's body, at most.

        Raises:
            OSError: The port is taken, or the address is none of this machine's.
            ValueError: A token is empty.
        """
        operations.logs()  # lines are kept from the first time that somebody asks
        self._logins = Logins()
        self._application = Application(operations, max_body=max_body, logins=self._logins)
        self._servers: list[tuple[_Uvicorn, socket.socket]] = []
        self.address: tuple[str, int] | None = None
        if http is not None:
            gate = Gate(self._application, token=token, read_token=read_token, hosts=hosts, logins=self._logins)
            listening = socket.create_server(http, family=_family(http[0]))
            # An answer's head and body are written apart: else the body waits 40 ms for the client's acknowledgement.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.address = listening.getsockname()[:2]
            self._logins.url = _reached_at(self.address, hosts)
            self._servers.append((_server(gate), listening))
        if unix is not None:
            self._servers.append((_server(self._application), unix))
        self._loop = asyncio.new_event_loop()
        self._ending: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="sage-deploy-server", daemon=True)
        self._thread.start()
        self._application.start()

    @property
    def url(self) -> str | None:
        """Such as `http://127.0.0.1:8400`; None without HTTP."""
        if self.address is None:
            return None
        return _url(*self.address)

    def login_link(self, *, read_only: bool = False) -> str:
        """
        A link that logs a browser in, once, within an hour.

        Args:
            read_only: Whether the browser may only look.

        Raises:
            Problem: There is no HTTP.
        """
        return self._logins.link(Access.READ if read_only else Access.FULL)

    def _run(self) -> None:
        async def serve() -> None:
            # Signals are the business of the program: in this thread uvicorn asks for none.
            await asyncio.gather(*(server.serve(sockets=[listening]) for server, listening in self._servers))
            if self._ending is not None:
                self._ending.cancel()

        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(serve())

    def close(self) -> None:
        """
        Say that the environment is not ready any more, answer what was accepted, then end; idempotent.

        It waits neither for the rest of a request nor for a client that has stopped reading.
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
        if self._ending is None:
            self._ending = self._loop.create_task(self._end_silent())

    async def _end_silent(self) -> None:
        """Break connections whose client neither sends the rest of its request nor reads, `_SILENT_S` long."""
        before: dict[Any, tuple[int, int]] = {}  # bytes to be sent, and how often that was the same
        while True:
            await asyncio.sleep(_LOOK_S)
            for connection in [each for server, _ in self._servers for each in server.server_state.connections]:
                waits, same = self._waits_for(connection), 0
                if waits and before.get(connection, (0, 0))[0] == waits:
                    same = before[connection][1] + 1
                before[connection] = waits, same
                if same * _LOOK_S >= _SILENT_S:
                    connection.transport.abort()

    @staticmethod
    def _waits_for(connection: Any) -> int:
        """Bytes that the client has not read, -1 if some of its request is missing, 0 if it owes nothing."""
        cycle = connection.cycle
        if cycle is not None and cycle.more_body and not cycle.response_complete:
            return -1
        size: int = connection.transport.get_write_buffer_size()
        return size


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _reached_at(address: tuple[str, int], hosts: Collection[str]) -> str:
    """The address as a browser has it: by a name that is let in, if the server listens where others reach it."""
    host, port = address
    return _url(host if is_loopback(host) else next(iter(hosts), "localhost"), port)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class _State(ServerState):
    """Writes the header `Date` when an answer needs it."""

    def __init__(self) -> None:
        self._written: tuple[int, list[tuple[bytes, bytes]]] = 0, []
        super().__init__()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Of every answer; the same object within a second."""
        now = int(time.time())
        if self._written[0] != now:
            self._written = now, [(b"date", formatdate(now, usegmt=True).encode())]
        return self._written[1]

    @default_headers.setter
    def default_headers(self, _: list[tuple[bytes, bytes]]) -> None:
        """What uvicorn would write; not needed."""


class _Uvicorn(uvicorn.Server):
    """Wakes up for requests and for its end alone: uvicorn's does so ten times a second, also for the header `Date`."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state = _State()
        self._over = asyncio.Event()

    async def main_loop(self) -> None:
        """Wait for the end."""
        await self._over.wait()

    def end(self) -> None:
        """Have it end; on its event loop."""
        self.should_exit = True
        self._over.set()


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
    Answer requests for the services of an environment inside a `with` block; the environment lives on after it.

    Args:
        operations: The environment.
        http: `HOST:PORT`, or a port alone at the loopback interface.
        token: Lets in; must not be empty.
        **more: As for `Server`.

    Raises:
        OSError, ValueError: As `Server`.
    """
    server = Server(operations, http=parse(http), token=token, **more)
    try:
        yield server
    finally:
        server.close()
