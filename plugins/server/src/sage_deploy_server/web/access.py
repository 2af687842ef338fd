"""Who may come in: every request passes here before anything else looks at it."""

from __future__ import annotations

import hmac
import os
import secrets
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from sage_deploy_server.web.problems import Problem, response_of

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["OPEN", "Gate", "make_token"]

#: Paths that need no token: whether the process lives, and whether it is ready.
OPEN: Final = frozenset({"/healthz", "/readyz"})

#: What only looks.
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_HERE: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


def make_token(file: Path) -> str:
    """A new token of 256 bits, in *file*, which must not be there yet and which only its owner can read."""
    token = secrets.token_hex(32)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as opened:
        opened.write(token)
    return token


class Gate:
    """
    ASGI middleware: refuses requests for another host, from another site, or without the token.

    A token that may only look is refused whatever changes or calls. Tokens come in the header `Authorization` alone.
    """

    def __init__(self, app: ASGIApp, *, token: str, read_token: str | None = None, hosts: Collection[str] = ()) -> None:
        """
        Guard *app*.

        Args:
            app: What is behind.
            token: Lets in.
            read_token: Lets in those who only look; None for nobody.
            hosts: Names of this server besides those of the loopback interface.
        """
        self._app = app
        self._token = token.encode()
        self._read_token = None if read_token is None else read_token.encode()
        self._hosts = _HERE | {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or have it answered."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])  # their names are in lower case, as ASGI has it
            problem = self._refusal(scope, headers)
            if problem is not None:
                await response_of(problem, {"Cache-Control": "no-store"})(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> Problem | None:
        host = headers.get(b"host", b"").decode("latin-1")
        if _name(host) not in self._hosts:
            return Problem(
                421, "host", f"this server is not {host!r}; name it in allow_hosts to have it answer for that"
            )
        if scope["path"] in OPEN:
            return None
        if self._is_cross_site(headers, host):
            return Problem(403, "cross-site", "requests of other sites are refused")
        return self._check_token(scope, headers)

    @staticmethod
    def _is_cross_site(headers: dict[bytes, bytes], host: str) -> bool:
        site = headers.get(b"sec-fetch-site")
        if site is not None:
            return site not in {b"same-origin", b"none"}
        origin = headers.get(b"origin")
        return origin is not None and urlsplit(origin.decode("latin-1")).netloc != host

    def _check_token(self, scope: Scope, headers: dict[bytes, bytes]) -> Problem | None:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        given = given.strip() if scheme.lower() == b"bearer" else b""
        if hmac.compare_digest(given, self._token):
            scope["sage_caller"] = "token"  # for the record of who changed what
            return None
        if self._read_token is not None and hmac.compare_digest(given, self._read_token):
            if scope["method"] in _SAFE:
                return None
            return Problem(403, "token", "this token may look, and not call or change anything")
        return Problem(401, "token", "send the header `Authorization: Bearer TOKEN`")


def _name(host: str) -> str:
    """The name in the header `Host`, without its port."""
    host = host.lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
