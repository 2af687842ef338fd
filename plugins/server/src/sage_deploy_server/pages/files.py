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
_FIRST: Final = "/services"

#: By path: the file, and what is in it.
_FILES: Final = {
    "/static/style.css": ("style.css", "text/css"),
}


def page_routes() -> list[Route]:
    """The routes of all pages and files, and the way from `/` to the first page."""

    async def first(_: Request) -> Response:
        return RedirectResponse(_FIRST, 303, PAGE_HEADERS)

    return [Route("/", first), *(_route(path, *file) for path, file in _FILES.items())]


def _route(path: str, file: str, media_type: str) -> Route:
    content = files(__package__).joinpath("static", file).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, headers=PAGE_HEADERS, media_type=media_type)

    return Route(path, answer)
