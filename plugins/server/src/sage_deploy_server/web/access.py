"""Checks whether a request may enter. Every request over HTTP passes here first."""

from __future__ import annotations

import hmac
import os
import secrets
from typing import TYPE_CHECKING, Final

from starlette.requests import cookie_parser

from sage_deploy_server.web.logins import LOGIN, Access, Logins, cookie_name, move_ticket_to_scope
from sage_deploy_server.web.pages import STYLE, refusal, wants_page
from sage_deploy_server.web.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["LOGIN_LINK", "PUBLIC_PATHS", "AccessMiddleware", "make_token"]

#: Paths that need no token: liveness and readiness.
PUBLIC_PATHS: Final = frozenset({"/healthz", "/readyz"})

#: Paths that a browser needs before login. Unlike `PUBLIC_PATHS`, they refuse requests from other sites.
_BEFORE_LOGIN: Final = frozenset({LOGIN, STYLE})

#: Creates a login link. A read-only token gets a read-only link.
LOGIN_LINK: Final = "/api/v1/login-link"

#: Methods that only read.
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


def make_token(file: Path) -> str:
    """Write a new token of 256 bits to *file*, which must not exist, and return it. Only the owner can read *file*."""
    token = secrets.token_hex(32)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as opened:
        opened.write(token)
    return token


class AccessMiddleware:
    """
    ASGI middleware that refuses requests for another host, from another site, or without a token or login.

    Adds the access level (`sage_access`) and the kind of caller (`sage_caller`) to the request's scope. Read-only
    tokens and logins cannot change or call anything. Tokens are accepted only in the header `Authorization`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str,
        read_token: str | None = None,
        hosts: Collection[str] = (),
        logins: Logins | None = None,
    ) -> None:
        """
        Guard *app*.

        Args:
            app: The application to guard.
            token: Token for full access.
            read_token: Token for read-only access; None for none.
            hosts: Host names of this server, in addition to those of the loopback interface.
            logins: Sessions of browsers; None for none.

        Raises:
            ValueError: A token is empty, which would let every request in.
        """
        for name, given in (("token", token), ("read_token", read_token)):
            if given is not None and not given.strip():
                raise ValueError(f"{name} is empty; give a secret such as secrets.token_urlsafe()")
        self._app = app
        # Stripped as those of requests are: the file of a secret often ends with a line break.
        self._token = token.strip().encode()
        self._read_token = None if read_token is None else read_token.strip().encode()
        self._hosts = _LOOPBACK_HOSTS | {host.lower() for host in hosts}
        self._logins = logins or Logins()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it to the application."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])  # ASGI gives the names in lower case
            if scope["path"] == LOGIN:
                move_ticket_to_scope(scope)
            try:
                self._check(scope, headers)
            except Problem as problem:
                page = wants_page(scope["method"], headers.get(b"accept", b"").decode("latin-1"))
                await refusal(problem, page=page)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1")
        if _host_name(host) not in self._hosts:
            raise Problem(
                421, "host", f"this server is not {host!r}; name it in allow_hosts to have it answer for that"
            )
        path = scope["path"]
        if path in PUBLIC_PATHS:
            return
        if self._is_cross_site(headers, host):
            raise Problem(403, "cross-site", "requests of other sites are refused")
        if path in _BEFORE_LOGIN and scope["method"] in _SAFE_METHODS:
            return
        # If a request has a token, only the token counts: a cookie does not make up for a wrong token.
        access = self._check_token(scope, headers) if b"authorization" in headers else self._check_login(scope, headers)
        only_reads = scope["method"] in _SAFE_METHODS or (scope["sage_caller"] == "token" and path == LOGIN_LINK)
        if access is Access.READ and not only_reads:
            raise Problem(403, "token", f"this {scope['sage_caller']} is read-only and cannot call or change anything")
        scope["sage_access"] = access

    @staticmethod
    def _is_cross_site(headers: dict[bytes, bytes], host: str) -> bool:
        site = headers.get(b"sec-fetch-site")
        if site is not None:
            return site not in {b"same-origin", b"none"}
        origin = headers.get(b"origin")
        return origin is not None and origin.decode("latin-1").partition("://")[2] != host

    def _check_token(self, scope: Scope, headers: dict[bytes, bytes]) -> Access:
        scheme, _, given = headers[b"authorization"].partition(b" ")
        given = given.strip()
        scope["sage_caller"] = "token"  # for the record of changes
        if scheme.lower() == b"bearer":
            if hmac.compare_digest(given, self._token):
                return Access.FULL
            if self._read_token is not None and hmac.compare_digest(given, self._read_token):
                return Access.READ
        raise Problem(401, "token", "send the header `Authorization: Bearer TOKEN`")

    def _check_login(self, scope: Scope, headers: dict[bytes, bytes]) -> Access:
        cookies = cookie_parser(headers.get(b"cookie", b"").decode("latin-1"))
        access = self._logins.access_of(cookies.get(cookie_name(scope), ""))
        if access is None:
            raise Problem(401, "token", "send the header `Authorization: Bearer TOKEN`")
        # Browsers send the cookie even if another site causes the request. So a change needs proof that a page of this
        # server sent it. Requests with another site's origin were refused above.
        site = headers.get(b"sec-fetch-site")
        is_from_here = b"origin" in headers if site is None else site == b"same-origin"
        if scope["method"] not in _SAFE_METHODS and not is_from_here:
            raise Problem(403, "cross-site", "with a login, calls and changes come from pages of this server")
        scope["sage_caller"] = "login"
        return access


def _host_name(host: str) -> str:
    """Return the name in the header `Host`, without the port."""
    host = host.lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
