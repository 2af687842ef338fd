"""The server serves all files of its pages and no others. Files of third parties are the recorded versions."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

import sage_deploy_server.pages
import sage_deploy_server.reports
from sage_deploy_server.pages.files import LOADED, PAGE
from sage_plugins.plugins.hook_calls import KINDS

STATIC = Path(str(files(sage_deploy_server.pages) / "static"))
TESTS = Path(__file__).parent / "vendor"
VENDORED = json.loads((STATIC / "vendor" / "vendored.json").read_text("utf-8"))
#: Files that browsers never load.
KEPT = {"vendor/vendored.json", *(f"vendor/{each['file']}" for each in VENDORED if each["file"].endswith(".txt"))}
TEXTS = [path for path in STATIC.rglob("*") if path.suffix in {".html", ".js", ".css"} and path.parent.name != "vendor"]
REPORT = list((Path(str(files(sage_deploy_server.reports))) / "static").iterdir())


@pytest.mark.parametrize("folder", [STATIC / "vendor", TESTS], ids=["pages", "tests"])
def test_the_files_of_others_are_the_recorded_ones(folder):
    """Third-party files match their recorded hashes, so a change shows; tools/vendor_static.py fetches them."""
    record = json.loads((folder / "vendored.json").read_text("utf-8"))
    assert {path.name for path in folder.iterdir()} == {"vendored.json", *(each["file"] for each in record)}
    for entry in record:
        _check(folder, entry)


def _check(folder, entry):
    content = (folder / entry["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert entry["package"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", entry["version"])
    assert entry["licence"]


def test_every_file_is_served():
    """Every file of the pages is served, except those that browsers never load."""
    there = {path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file()}
    assert there == {*LOADED, PAGE, *KEPT}


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static//etc/hostname",
        "/static/board.html",
        "/static/files.py",
        "/static/../files.py",
        "/static/%2e%2e/files.py",
        "/static/vendor/vendored.json",
    ],
)
def test_nothing_else_is_served(ask, path):
    assert ask("GET", path)[0] == 404


def test_files_have_their_media_types(ask):
    """Files have the right media types, because the answer forbids browsers to guess."""
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    for path in ("/", *(f"/static/{file}" for file in LOADED)):
        status, _, headers = ask("GET", path)
        expected = kinds.get(path.rpartition(".")[2], "text/html")
        assert (status, headers["Content-Type"].partition(";")[0]) == (200, expected)
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_names_all_its_scripts_before_a_browser_has_read_any(ask):
    """The page's header names all its scripts, so that a browser loads them at once."""
    named = re.findall(r"<([^>]+)>; rel=modulepreload", ask("GET", "/")[2]["Link"])
    assert named == [f"/static/{file}" for file in LOADED if file.endswith(".js")]


def test_a_page_that_has_moved_leads_to_its_place(ask):
    """`/try` redirects to the page's new place."""
    status, _, headers = ask("GET", "/try")
    assert (status, headers["Location"]) == (303, "/#/try")


@pytest.mark.parametrize("file", [*TEXTS, *REPORT], ids=lambda path: path.name)
def test_our_files_name_no_other_host_and_make_no_html_of_texts(file):
    """Our pages name no other host, and never turn text into HTML."""
    text = file.read_text("utf-8")
    assert re.findall(r"https?://", text) == []
    assert re.findall(r"innerHTML|insertAdjacentHTML|document\.write|dangerouslySet|\beval\b|new Function", text) == []
    assert re.findall(r"<style|<script>| style=| on[a-z]+=\"", text) == []


def test_all_files_together_are_small(ask):
    """A browser loads at most 120 KiB in all, so that the page shows quickly."""
    assert sum(len(ask("GET", path)[1]) for path in ("/", *(f"/static/{file}" for file in LOADED))) <= 120 * 1024


@pytest.mark.parametrize("file", [file for file in LOADED if file.endswith(".js") and not file.startswith("vendor/")])
def test_what_is_left_out_of_a_file_are_comments_and_space_alone(ask, file):
    """Only comments and white space are removed from the scripts that are served."""
    lines = [line.partition(" // ")[0].strip() for line in (STATIC / file).read_text("utf-8").splitlines()]
    served = ask("GET", f"/static/{file}")[1].decode().splitlines()
    rest = iter(lines)
    assert all(line in rest for line in served)
    left = sorted(set(lines) - set(served))
    assert all(not line or line.startswith(("/*", "*", "//")) for line in left)


def test_every_text_of_the_page_has_its_chinese():
    """Each text of the pages has a Chinese translation; without one it would be shown in English."""
    pages = [path for path in [*TEXTS, *REPORT] if path.suffix == ".js" and path.name != "chinese.js"]
    used = {text for path in pages for text in re.findall(r"\bt\(\"([^\"]+)\"", path.read_text("utf-8"))}
    catalogues = [STATIC / "board" / "chinese.js", *(path for path in REPORT if path.name == "live.js")]
    known = "\n".join(path.read_text("utf-8") for path in catalogues)
    assert len(used) > 100
    assert {text for text in used if f'"{text}":' not in known and f"  {text}:" not in known} == set()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_plugin_has_its_chinese(kind):
    """The screen of plugins has a Chinese word for each kind of plugin."""
    known = (STATIC / "board" / "chinese.js").read_text("utf-8")
    assert re.search(rf'^  "?{kind}"?: "', known, re.MULTILINE)
