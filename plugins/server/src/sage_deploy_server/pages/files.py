"""The pages, and the files that they load: read once, and each a route of its own, so that no other file is reached."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Final

from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from sage_deploy_server.web.pages import PAGE_HEADERS

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["page_routes"]

#: Where a browser begins.
_FIRST: Final = "/try"

#: Pages, by path.
_PAGES: Final = {"/try": "try.html"}

#: What they load, below `/static`.
_LOADED: Final = (
    "style.css",
    "try.css",
    "try.js",
    "api.js",
    "fields.js",
    "form.js",
    "method.js",
    "outcome.js",
    "text.js",
    "icon.svg",
    "vendor/preact-htm.js",
)

_MEDIA_TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def page_routes() -> list[Route]:
    """The routes of all pages and files, and the way from `/` to the first page."""

    async def first(_: Request) -> Response:
        return RedirectResponse(_FIRST, 303, PAGE_HEADERS)

    loaded = {f"/static/{file}": file for file in _LOADED}
    return [Route("/", first), *(_route(path, file) for path, file in (_PAGES | loaded).items())]


def _route(path: str, file: str) -> Route:
    content = files(__package__).joinpath("static", file).read_bytes()
    media_type = _MEDIA_TYPES[file.rpartition(".")[2]]

    async def answer(_: Request) -> Response:
        return Response(content, headers=PAGE_HEADERS, media_type=media_type)

    return Route(path, answer)
