"""The pages, and the files that they load: read once, and no file but those that are listed here is reached."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from sage_deploy_server.web.pages import PAGE_HEADERS

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["LOADED", "page_routes"]

#: Where a browser begins.
_FIRST: Final = "/try"

#: Pages, by path.
_PAGES: Final = {"/try": "try.html"}

#: What they load, below `/static`.
LOADED: Final = (
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
    loaded = {file: _read(file) for file in LOADED}

    async def first(_: Request) -> Response:
        return RedirectResponse(_FIRST, 303, PAGE_HEADERS)

    async def file(request: Request) -> Response:
        found = loaded.get(request.path_params["file"])
        if found is None:
            raise HTTPException(404)
        return _answer(*found)

    return [
        Route("/", first),
        Route("/static/{file:path}", file),
        *(_page(path, name) for path, name in _PAGES.items()),
    ]


def _page(path: str, file: str) -> Route:
    found = _read(file)

    async def page(_: Request) -> Response:
        return _answer(*found)

    return Route(path, page)


def _answer(content: bytes, media_type: str) -> Response:
    return Response(content, headers=PAGE_HEADERS, media_type=media_type)


def _read(file: str) -> tuple[bytes, str]:
    """What is in a file, and its media type."""
    return files(__package__).joinpath("static", file).read_bytes(), _MEDIA_TYPES[file.rpartition(".")[2]]
