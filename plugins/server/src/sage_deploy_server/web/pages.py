"""Answers for browsers: the headers of every page, and the page that explains a refusal."""

from __future__ import annotations

from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from starlette.responses import HTMLResponse

from sage_deploy_server.web.problems import response_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.responses import Response

    from sage_deploy_server.web.problems import Problem

__all__ = ["PAGE_HEADERS", "STYLE", "refusal", "wants_page"]

#: The style sheet, the only file that a browser gets before login.
STYLE: Final = "/static/style.css"

#: Pages load only files of this server, run no inline code, and cannot be framed by other sites.
PAGE_HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Cache-Control": "no-store",
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
            "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
        ),
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }
)

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · sage-deploy</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{style}">
<body class="notice">
<main>
<h1>{title}</h1>
<p class="why">{why}.</p>
{what_to_do}
</main>
"""

_NOT_LOGGED_IN: Final = "this page is for browsers that have logged in"

_LOG_IN: Final = """\
<p>To log in, run this in a terminal on the machine where the services run:</p>
<pre>sage-deploy login</pre>
<p>Then open the link that it prints. Each link works once.</p>
<p>If this browser has logged in before, go on to <a href="/">the start page</a>.</p>"""

_OPEN_IT_HERE: Final = """\
<p>To open this page, copy its address into the address bar of your browser.</p>"""


def wants_page(method: str, accept: str) -> bool:
    """Whether a browser asks for something to display."""
    return method in {"GET", "HEAD"} and "text/html" in accept


def refusal(problem: Problem, *, page: bool) -> Response:
    """Answer a refused request: with a page for people if *page*, else with JSON for programs."""
    if not page or problem.status not in {401, 403}:
        return response_of(problem, {"Cache-Control": "no-store"})
    is_unknown = problem.status == 401  # noqa: PLR2004 - unauthorized
    text = _PAGE.format(
        title="Log in" if is_unknown else "Not from here",
        why=escape(_NOT_LOGGED_IN if problem.code == "token" else problem.detail),
        style=STYLE,
        what_to_do=_LOG_IN if is_unknown else _OPEN_IT_HERE,
    )
    headers = {**PAGE_HEADERS, "WWW-Authenticate": "Bearer"} if is_unknown else PAGE_HEADERS
    return HTMLResponse(text, problem.status, headers)
