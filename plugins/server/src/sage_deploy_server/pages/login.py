"""`GET /login`: logs a browser in by a link that works once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from starlette.responses import Response
from starlette.routing import Route

from sage_deploy_server.web.logins import LOGIN, cookie_name
from sage_deploy_server.web.pages import PAGE_HEADERS, refusal, wants_page
from sage_deploy_server.web.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request

    from sage_deploy_server.web.logins import Logins

__all__ = ["login_route"]

_LOG: Final = logging.getLogger("sage.extension.server")


def login_route(logins: Logins) -> Route:
    """Create the route of login links. The `AccessMiddleware` in front has moved the ticket out of the address."""

    async def answer(request: Request) -> Response:
        if request.method == "HEAD":  # a link check must not use up the link
            return Response(headers=PAGE_HEADERS)
        begun = logins.begin(request.scope.get("sage_ticket", ""))
        if begun is None:
            problem = Problem(401, "login", "this login link was used before, has expired, or is not complete")
            return refusal(problem, page=wants_page(request.method, request.headers.get("accept", "")))
        session, access = begun
        _LOG.info("a browser has logged in: %s access", access)
        cookie = f"{cookie_name(request.scope)}={session}; HttpOnly; SameSite=Strict; Path=/"
        if request.url.scheme == "https":
            cookie += "; Secure"
        # always the same place, without the ticket
        return Response(status_code=303, headers={**PAGE_HEADERS, "Location": "/", "Set-Cookie": cookie})

    return Route(LOGIN, answer)
