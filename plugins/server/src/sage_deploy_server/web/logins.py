"""Who has logged in with a browser."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from sage_deploy_server.web.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

__all__ = ["LINK_LIFE_S", "LOGIN", "Access", "Logins", "cookie_name", "hide_ticket"]

#: Where a login link leads.
LOGIN: Final = "/login"

#: Seconds after which a link that nobody has opened does not work any more.
LINK_LIFE_S: Final = 3600.0

#: Links that nobody has opened, and sessions, at most, for each access; the oldest make room.
_MOST: Final = 64


class Access(StrEnum):
    """What a caller may do."""

    FULL = "full"
    READ = "read"


def cookie_name(scope: Mapping[str, Any]) -> str:
    """Name of the session's cookie. It has the server's port in it: browsers send cookies to all ports of a host."""
    server = scope.get("server")
    return f"sage_deploy_{server[1] if server else 0}"


def hide_ticket(scope: MutableMapping[str, Any]) -> None:
    """Take a link's ticket out of the address, which servers log, into `sage_ticket`."""
    query = parse_qs(scope["query_string"].decode("latin-1"))
    scope["query_string"] = b""
    scope["sage_ticket"] = query.get("ticket", [""])[0]


class Logins:
    """
    Links that log a browser in, each once, and the sessions that they begin. They are only in memory.

    All methods are safe from any thread.

    Attributes:
        url: Where the server answers over HTTP; None if it does not.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Nobody has logged in yet; *monotonic* tells the time."""
        self.url: str | None = None
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._links: dict[Access, OrderedDict[str, float]] = {each: OrderedDict() for each in Access}
        self._sessions: dict[Access, OrderedDict[str, None]] = {each: OrderedDict() for each in Access}

    def link(self, access: Access, url: str | None = None) -> str:
        """
        A new link, for one login within `LINK_LIFE_S`.

        Args:
            access: What the browser may do then.
            url: Where it reaches the server; `self.url` by default.

        Raises:
            Problem: 409, because the server does not answer over HTTP.
        """
        base = url or self.url
        if base is None:
            raise Problem(409, "login", "this environment does not answer over HTTP: start it with --http PORT")
        ticket = secrets.token_urlsafe(32)
        with self._lock:
            self._links[access][ticket] = self._monotonic() + LINK_LIFE_S
            _bound(self._links[access])
        return f"{base}{LOGIN}?ticket={ticket}"

    def begin(self, ticket: str) -> tuple[str, Access] | None:
        """
        Use a link's ticket up; gives the ID and the access of a new session.

        None if the ticket was used before, has expired, or is none.
        """
        with self._lock:
            for access, links in self._links.items():
                expires = links.pop(ticket, None)
                if expires is not None and self._monotonic() < expires:
                    session = secrets.token_urlsafe(32)
                    self._sessions[access][session] = None
                    _bound(self._sessions[access])
                    return session, access
        return None

    def access_of(self, session: str) -> Access | None:
        """What the browser with that session may do; None if there is no such session."""
        with self._lock:
            for access, sessions in self._sessions.items():
                if session in sessions:
                    sessions.move_to_end(session)
                    return access
        return None


def _bound(held: OrderedDict[str, Any]) -> None:
    while len(held) > _MOST:
        held.popitem(last=False)
