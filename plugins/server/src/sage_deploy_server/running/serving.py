"""A server in a thread of the environment's process."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import uvicorn

from sage_deploy_server.web.access import Gate
from sage_deploy_server.running.addresses import parse
from sage_deploy_server.web.app import MAX_BODY, asgi

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
        host: str = "127.0.0.1",
        port: int = 8400,
        token: str,
        read_token: str | None = None,
        hosts: Collection[str] = (),
        max_body: int = MAX_BODY,
    ) -> None:
        """
        Listen; returns once it can be reached.

        Args:
            operations: The environment whose services are called.
            host: Address to listen at.
            port: Its port; 0 for a free one.
            token: Lets in.
            read_token: Lets in those who only look; None for nobody.
            hosts: Further names under which clients know this server.
            max_body: Bytes of a request's body, at most.

        Raises:
            OSError: The port is taken, or the address is none of this machine's.
        """
        self._socket = socket.create_server((host, port), reuse_port=False)
        self.address = self._socket.getsockname()[:2]
        app = Gate(asgi(operations, max_body=max_body), token=token, read_token=read_token, hosts=hosts)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=_GRACE_S,
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="sage-deploy-server", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Such as `http://127.0.0.1:8400`."""
        host, port = self.address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def _run(self) -> None:
        # Signals are the business of the program, not of this thread.
        self._server.run(sockets=[self._socket])

    def close(self) -> None:
        """Answer what was accepted, at most for some time, then end; idempotent."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


@contextmanager
def serve(operations: Operations, http: str = "127.0.0.1:8400", *, token: str, **more: object) -> Iterator[Server]:
    """
    Answer requests for the services of an environment inside a `with` block; the environment lives on after it.

    Args:
        operations: The environment.
        http: `HOST:PORT`, or a port alone at the loopback interface.
        token: Lets in.
        **more: As for `Server`.
    """
    host, port = parse(http)
    server = Server(operations, host=host, port=port, token=token, **more)  # type: ignore[arg-type] # as `Server` says
    try:
        yield server
    finally:
        server.close()
