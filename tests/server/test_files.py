"""The files of the pages: all are served and nothing else is, and those of others are the ones that were recorded."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

import sage_deploy_server.pages
from sage_deploy_server.pages.files import LOADED, page_routes

STATIC = Path(str(files(sage_deploy_server.pages) / "static"))
VENDORED = json.loads((STATIC / "vendor" / "vendored.json").read_text("utf-8"))
#: What browsers never load.
KEPT = {"vendor/vendored.json", *(f"vendor/{each['file']}" for each in VENDORED if each["file"].endswith(".txt"))}
PAGES = [route.path for route in page_routes() if "{" not in route.path and route.path != "/"]

TEXTS = [path for path in STATIC.iterdir() if path.suffix in {".html", ".js", ".css"}]


@pytest.mark.parametrize("entry", VENDORED, ids=lambda entry: entry["file"])
def test_a_file_of_others_is_the_recorded_one(entry):
    """A change in it is seen; tools/vendor_static.py fetches it anew."""
    content = (STATIC / "vendor" / entry["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert entry["package"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", entry["version"])
    assert entry["licence"]


def test_nothing_of_others_is_unrecorded():
    there = {path.name for path in (STATIC / "vendor").iterdir()}
    assert there == {"vendored.json", *(each["file"] for each in VENDORED)}


def test_every_file_is_served():
    there = {path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file()}
    assert there == {*LOADED, *(f"{path[1:]}.html" for path in PAGES), *KEPT}


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static//etc/hostname",
        "/static/try.html",
        "/static/files.py",
        "/static/../files.py",
        "/static/%2e%2e/files.py",
        "/static/vendor/vendored.json",
    ],
)
def test_nothing_else_is_served(ask, path):
    assert ask("GET", path)[0] == 404


def test_files_have_their_media_types(ask):
    """A browser takes no other for a script: the answer forbids it to guess."""
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    for path in (*PAGES, *(f"/static/{file}" for file in LOADED)):
        status, _, headers = ask("GET", path)
        expected = kinds.get(path.rpartition(".")[2], "text/html")
        assert (status, headers["Content-Type"].partition(";")[0]) == (200, expected)
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_start_leads_to_the_first_page(ask):
    status, _, headers = ask("GET", "/")
    assert (status, headers["Location"]) == (303, "/try")


@pytest.mark.parametrize("file", TEXTS, ids=lambda path: path.name)
def test_our_files_name_no_other_host_and_make_no_html_of_texts(file):
    text = file.read_text("utf-8")
    assert re.findall(r"https?://", text) == []
    assert re.findall(r"innerHTML|insertAdjacentHTML|document\.write|dangerouslySet|\beval\b|new Function", text) == []
    assert re.findall(r"<style|<script>| style=| on[a-z]+=\"", text) == []


def test_all_files_together_are_small():
    """As a page on loopback that shows at once."""
    assert sum((STATIC / file).stat().st_size for file in LOADED) <= 120 * 1024
