"""Login links and sessions of browsers."""

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

__all__ = ["LINK_LIFE_S", "LOGIN", "Access", "Logins", "cookie_name", "move_ticket_to_scope"]

#: Path of login links.
LOGIN: Final = "/login"

#: Seconds until an unused link expires.
LINK_LIFE_S: Final = 3600.0

#: Maximum numbers of unused links and of sessions, for each access level. The oldest are dropped.
_MAX_PER_ACCESS: Final = 64


class Access(StrEnum):
    """Access levels of callers."""

    FULL = "full"
    READ = "read"


def cookie_name(scope: Mapping[str, Any]) -> str:
    """Return the session cookie's name, with the port in it: browsers send cookies to all ports of a host."""
    server = scope.get("server")
    return f"sage_deploy_{server[1] if server else 0}"


def move_ticket_to_scope(scope: MutableMapping[str, Any]) -> None:
    """Move the link's ticket from the address, which servers log, to `sage_ticket` in the scope."""
    query = parse_qs(scope["query_string"].decode("latin-1"))
    scope["query_string"] = b""
    scope["sage_ticket"] = query.get("ticket", [""])[0]


class Logins:
    """
    Login links, each for one use, and the sessions that they start. Kept only in memory. Thread-safe.

    Attributes:
        url: Address of the server over HTTP; None without HTTP.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Start without sessions. *monotonic* returns the time in seconds."""
        self.url: str | None = None
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._links: dict[Access, OrderedDict[str, float]] = {each: OrderedDict() for each in Access}
        self._sessions: dict[Access, OrderedDict[str, None]] = {each: OrderedDict() for each in Access}

    def link(self, access: Access, url: str | None = None) -> str:
        """
        Create a link for one login within `LINK_LIFE_S`.

        Args:
            access: Access level of the browser after login.
            url: Address at which the browser reaches the server; default: `self.url`.

        Raises:
            Problem: 409 if the server does not answer over HTTP.
        """
        base = url or self.url
        if base is None:
            raise Problem(409, "login", "this environment does not answer over HTTP: start it with --http PORT")
        ticket = secrets.token_urlsafe(32)
        with self._lock:
            self._links[access][ticket] = self._monotonic() + LINK_LIFE_S
            _drop_oldest(self._links[access])
        return f"{base}{LOGIN}?ticket={ticket}"

    def begin(self, ticket: str) -> tuple[str, Access] | None:
        """
        Use up a link's ticket, and start a session. Returns the session's ID and access level.

        None if the ticket is unknown, used or expired.
        """
        with self._lock:
            for access, links in self._links.items():
                expires = links.pop(ticket, None)
                if expires is not None and self._monotonic() < expires:
                    session = secrets.token_urlsafe(32)
                    self._sessions[access][session] = None
                    _drop_oldest(self._sessions[access])
                    return session, access
        return None

    def access_of(self, session: str) -> Access | None:
        """Return the access level of a session; None if there is no such session."""
        with self._lock:
            for access, sessions in self._sessions.items():
                if session in sessions:
                    sessions.move_to_end(session)
                    return access
        return None


def _drop_oldest(held: OrderedDict[str, Any]) -> None:
    while len(held) > _MAX_PER_ACCESS:
        held.popitem(last=False)
