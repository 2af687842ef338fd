"""The extension `server`: the server of an environment whose options have that ID."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from sage_deploy_server.web.access import make_token
from sage_deploy_server.running.addresses import is_loopback, parse

if TYPE_CHECKING:
    from sage_deploy_server.running.serving import Server
    from sage_plugins.interfaces.operations import Operations

__all__ = ["ServerExtension", "ServerOptions"]

_LOG: Final = logging.getLogger("sage_deploy_server")


def _check_http(_self: ServerOptions, _attribute: attrs.Attribute[str], value: str) -> None:
    parse(value)


@attrs.frozen
class ServerOptions:
    """
    Where the server listens, and what it takes.

    Attributes:
        http: `HOST:PORT`, or a port at the loopback interface; port 0 takes a free one.
        allow_hosts: Names under which clients on other machines know this one. Needed for a host that is not loopback.
        max_body: Bytes of a request's body, at most.
    """

    http: str = attrs.field(default="127.0.0.1:8400", validator=_check_http)
    allow_hosts: tuple[str, ...] = ()
    max_body: int = attrs.field(default=2**20, validator=attrs.validators.ge(1))

    def __attrs_post_init__(self) -> None:
        """Refuse to be reached from elsewhere unless that is said twice."""
        host, _ = parse(self.http)
        if not is_loopback(host) and not self.allow_hosts:
            msg = f"http: other machines can reach {host}; say in allow_hosts under which names, or use 127.0.0.1"
            raise ValueError(msg)


class ServerExtension:
    """Serves one environment; see `interfaces.Extension`."""

    def __init__(self, options: ServerOptions) -> None:
        """Listen nowhere yet."""
        self._options = options
        self._server: Server | None = None
        self._file: Path | None = None

    def start(self, operations: Operations) -> None:
        """
        Listen.

        The token is that of the variable SAGE_DEPLOY_TOKEN, else a new one in a file that only its owner can read, in
        the user's state directory.

        Raises:
            OSError: The port is taken.
        """
        from sage_deploy_server.running.serving import Server

        host, port = parse(self._options.http)
        token = os.environ.get("SAGE_DEPLOY_TOKEN") or self._new_token(operations.name)
        self._server = Server(
            operations,
            host=host,
            port=port,
            token=token,
            read_token=os.environ.get("SAGE_DEPLOY_READ_TOKEN") or None,
            hosts=self._options.allow_hosts,
            max_body=self._options.max_body,
        )
        where = "of SAGE_DEPLOY_TOKEN" if self._file is None else f"in {self._file}"
        _LOG.info("environment %s answers at %s with the token %s", operations.name, self._server.url, where)

    def _new_token(self, name: str) -> str:
        folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "sage-deploy"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = folder / f"{name}-{os.getpid()}.token"
        return make_token(self._file)

    @property
    def url(self) -> str | None:
        """Where it answers; None before `start`."""
        return None if self._server is None else self._server.url

    def close(self) -> None:
        """Answer what was accepted, then listen no more, and forget the token."""
        if self._server is not None:
            self._server.close()
        if self._file is not None:
            with suppress(FileNotFoundError):
                self._file.unlink()
