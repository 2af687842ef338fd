"""The extension `server`: makes an environment reachable by its user's commands and over HTTP."""

from __future__ import annotations

import inspect
import json
import logging
import os
import socket
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_deploy_server.running.addresses import is_loopback, parse
from sage_deploy_server.running.environment_files import EnvironmentFiles
from sage_deploy_server.web.access import make_token

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_deploy_server.running.serving import Server
    from sage_plugins.interfaces.operations import Operations

__all__ = ["ServerExtension", "ServerOptions"]

_LOG: Final = logging.getLogger("sage.extension.server")

#: Example arguments, by the name of their type.
_EXAMPLE_VALUES: Final = {"int": 1, "float": 1.5, "bool": True, "list": [], "dict": {}}


def _check_http(_self: ServerOptions, _attribute: attrs.Attribute[str | None], value: str | None) -> None:
    if value is not None:
        parse(value)


@attrs.frozen
class ServerOptions:
    """
    Options of the server. The user's own commands always reach it, over a socket.

    Attributes:
        http: `HOST:PORT`, or a port on the loopback interface; port 0 takes a free one. Null: no HTTP.
        allow_hosts: Host names that clients on other machines use for this one. Required if the host is not loopback.
        max_body: Maximum size of a request's body, in bytes.
        login_link: Whether to print a link that logs a browser in, to stderr, when HTTP starts; `up` turns it on.
    """

    http: str | None = attrs.field(default=None, validator=_check_http)
    allow_hosts: tuple[str, ...] = ()
    max_body: int = attrs.field(default=2**20, validator=attrs.validators.ge(1))
    login_link: bool = False

    def __attrs_post_init__(self) -> None:
        """Refuse a host that other machines can reach unless `allow_hosts` is set."""
        if self.http is None:
            return
        host, _ = parse(self.http)
        if not is_loopback(host) and not self.allow_hosts:
            msg = f"http: other machines can reach {host}; say in allow_hosts under which names, or use 127.0.0.1"
            raise ValueError(msg)


class ServerExtension:
    """Serves one environment; see `interfaces.Extension`."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._server: Server | None = None
        self._files: EnvironmentFiles | None = None

    def start(self, operations: Operations) -> None:
        """
        Start to listen.

        The token for HTTP comes from the variable SAGE_DEPLOY_TOKEN. Without it, a new token is written next to the
        socket, to a file that only its owner can read. If the socket cannot be created, services run anyway, and a
        warning is logged.

        Raises:
            OSError: The port is taken, or there is no place for the token's file.
        """
        from sage_deploy_server.running.serving import Server

        options = self._options
        http = None if options.http is None else parse(options.http)
        with ExitStack() as undo:
            unix = self._listen(operations.id, undo)
            if unix is None and http is None:
                return
            self._server = Server(
                operations,
                http=http,
                unix=unix,
                token="" if http is None else self._token(),
                read_token=os.environ.get("SAGE_DEPLOY_READ_TOKEN") or None,
                hosts=options.allow_hosts,
                max_body=options.max_body,
            )
            undo.pop_all()
        if self._server.url is not None:
            self._log_example(operations, self._server.url)
            if options.login_link:
                _print_login_link(self._server.login_link())

    def _listen(self, id: str, undo: ExitStack) -> socket.socket | None:
        """Return the socket for the user's commands; None if it cannot be created."""
        if not hasattr(socket, "AF_UNIX"):
            return None
        try:
            files = EnvironmentFiles(id)
            undo.callback(files.remove)
            unix = undo.enter_context(files.listen())
        except OSError as error:
            _LOG.warning("commands in other terminals cannot reach environment %s: %s", id[:8], error)
            return None
        self._files = files
        return unix

    def _token(self) -> str:
        given = os.environ.get("SAGE_DEPLOY_TOKEN")
        if given:
            return given
        if self._files is None:
            raise OSError("there is no place for the file of the token; give one in the variable SAGE_DEPLOY_TOKEN")
        return make_token(self._files.token)

    def _log_example(self, operations: Operations, url: str) -> None:
        """Log how to call the services, with a line to copy."""
        files = None if os.environ.get("SAGE_DEPLOY_TOKEN") else self._files
        token = "$SAGE_DEPLOY_TOKEN" if files is None else f"$(cat {files.token})"
        path, arguments = _example_call(operations)
        data = f"-d '{json.dumps(arguments)}'" if arguments else "-X POST"
        _LOG.info(
            'services answer at %s, for instance:\ncurl %s -H "Authorization: Bearer %s" %s/services/%s',
            url,
            data,
            token,
            url,
            path,
        )

    @property
    def url(self) -> str | None:
        """Address of the server over HTTP; None without HTTP."""
        return None if self._server is None else self._server.url

    def close(self) -> None:
        """Answer accepted requests, stop listening, and delete the token."""
        if self._server is not None:
            self._server.close()
        if self._files is not None:
            self._files.remove()


def _print_login_link(link: str) -> None:
    """Write a login link to stderr. Not to a log, which is kept and which others may read."""
    with suppress(AttributeError, OSError, ValueError):  # stderr is missing or closed
        sys.stderr.write(
            f"to log in with a browser, once, within an hour (`sage-deploy login` prints another link):\n{link}\n"
        )
        sys.stderr.flush()


def _example_call(operations: Operations) -> tuple[str, dict[str, Any]]:
    """Return the path of the method that needs the fewest arguments, and examples of these arguments."""
    name = next(iter(operations.status()["services"]), None)
    if name is None:
        return "SERVICE/METHOD", {}
    handle = operations.service(name)
    methods = {each: _example_arguments(getattr(handle, each)) for each in dir(handle.aio) if not each.startswith("_")}
    method = min(methods, key=lambda each: len(methods[each]), default="METHOD")
    return f"{name}/{method}", methods.get(method, {})


def _example_arguments(method: Callable[..., Any]) -> dict[str, Any]:
    """Return a value for each required argument."""
    values = {}
    for each in inspect.signature(method).parameters.values():
        if each.default is each.empty and each.kind not in {each.VAR_POSITIONAL, each.VAR_KEYWORD}:
            type_name = str(getattr(each.annotation, "__name__", each.annotation)).partition("[")[0]
            values[each.name] = _EXAMPLE_VALUES.get(type_name, "...")
    return values
