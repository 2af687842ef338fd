"""Serves the page and the files that it loads. Reads them once, and serves no other files."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from sage_deploy_server.web.pages import PAGE_HEADERS

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["LOADED", "PAGE", "page_routes", "read_file"]

#: File of the page.
PAGE: Final = "board.html"

#: Former pages, and their places in the page now.
_MOVED: Final = {"/try": "/#/try"}

#: Files that the page loads, below `/static`.
LOADED: Final = (
    "style.css",
    "board.css",
    *(
        f"board/{name}.js"
        for name in (
            "actions",
            "chart",
            "chinese",
            "lists",
            "live",
            "main",
            "overview",
            "parts",
            "places",
            "service",
            "upkeep",
            "words",
        )
    ),
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

#: Comments and indentation. Stripping them keeps the source readable and the served files small.
_SPACE: Final = re.compile(rb"(?ms)^[ ]*/\*.*?\*/$|[ ]*// .*?$|^\s+")

#: More space, last semicolons, and zeros before a decimal point, in style sheets.
_STYLE_SPACE: Final = re.compile(rb"\n|;?\n(?=\})|;? (?=[{}])|(?<=[:;,{]) |(?<=[ (:])0(?=\.\d)")


def page_routes() -> list[Route]:
    """Create the routes of the page, its files, and the former pages."""
    page = read_file(PAGE)
    loaded = {file: read_file(file) for file in LOADED}
    # All scripts at once. Otherwise a browser finds them one after another, and waits for each.
    scripts = ", ".join(f"</static/{file}>; rel=modulepreload" for file in LOADED if file.endswith(".js"))

    async def first(_: Request) -> Response:
        return _answer(PAGE, page, Link=scripts)

    async def file(request: Request) -> Response:
        name = request.path_params["file"]
        if name not in loaded:
            raise HTTPException(404)
        return _answer(name, loaded[name])

    async def moved(request: Request) -> Response:
        return RedirectResponse(_MOVED[request.url.path], 303, PAGE_HEADERS)

    return [Route("/", first), Route("/static/{file:path}", file), *(Route(path, moved) for path in _MOVED)]


def _answer(file: str, content: bytes, **headers: str) -> Response:
    return Response(content, headers={**PAGE_HEADERS, **headers}, media_type=_MEDIA_TYPES[_kind_of(file)])


def read_file(file: str) -> bytes:
    """Return the content of a file of the page. Strips comments and indentation of our own files."""
    content = files(__package__).joinpath("static", file).read_bytes()
    kind = _kind_of(file)
    if kind in {"js", "css"} and not file.startswith("vendor/"):
        content = _SPACE.sub(b"", _SPACE.sub(b"", content))  # a removed comment leaves an empty line
    if kind == "css":
        content = _STYLE_SPACE.sub(b"", content)
    return content


def _kind_of(file: str) -> str:
    return file.rpartition(".")[2]
