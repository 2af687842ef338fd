"""A server in a thread of the environment's process."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from sage_deploy_server.running.addresses import parse
from sage_deploy_server.web.access import Gate
from sage_deploy_server.web.app import MAX_BODY, Application

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sage_plugins.interfaces.operations import Operations

__all__ = ["Server", "serve"]

#: Seconds within which accepted requests are answered at the end.
_GRACE_S: Final = 30


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
            token: Lets in those who come over HTTP.
            read_token: Lets in those who only look; None for nobody.
            hosts: Further names under which clients know this server.
            max_body: Bytes of a request's body, at most.

        Raises:
            OSError: The port is taken, or the address is none of this machine's.
        """
        operations.logs()  # lines are kept from the first time that somebody asks
        self._application = Application(operations, max_body=max_body)
        self._servers: list[tuple[uvicorn.Server, socket.socket]] = []
        self.address: tuple[str, int] | None = None
        if http is not None:
            listening = socket.create_server(http, family=_family(http[0]))
            # An answer's head and body are written apart: else the body waits 40 ms for the client's acknowledgement.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.address = listening.getsockname()[:2]
            gate = Gate(self._application, token=token, read_token=read_token, hosts=hosts)
            self._servers.append((_server(gate), listening))
        if unix is not None:
            self._servers.append((_server(self._application), unix))
        self._thread = threading.Thread(target=self._run, name="sage-deploy-server", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str | None:
        """Such as `http://127.0.0.1:8400`; None without HTTP."""
        if self.address is None:
            return None
        host, port = self.address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def _run(self) -> None:
        async def serve() -> None:
            # Signals are the business of the program: in this thread uvicorn asks for none.
            await asyncio.gather(*(server.serve(sockets=[listening]) for server, listening in self._servers))

        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(serve())

    def close(self) -> None:
        """Say that the environment is not ready any more, answer what was accepted, then end; idempotent."""
        self._application.close()
        for server, _ in self._servers:
            server.should_exit = True
        self._thread.join()
        for _, listening in self._servers:
            listening.close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _server(app: Any) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_GRACE_S,
        server_header=False,
    )
    return uvicorn.Server(config)


@contextmanager
def serve(operations: Operations, http: str = "127.0.0.1:8400", *, token: str, **more: Any) -> Iterator[Server]:
    """
    Answer requests for the services of an environment inside a `with` block; the environment lives on after it.

    Args:
        operations: The environment.
        http: `HOST:PORT`, or a port alone at the loopback interface.
        token: Lets in.
        **more: As for `Server`.
    """
    server = Server(operations, http=parse(http), token=token, **more)
    try:
        yield server
    finally:
        server.close()
