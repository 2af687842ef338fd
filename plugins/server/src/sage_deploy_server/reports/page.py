"""Builds the file of a report: the dashboard's pages and recorded data in one HTML document that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
import re
from html import escape
from importlib.resources import files
from typing import Any, Final

from sage_deploy_server.pages.files import read_file

__all__ = ["page_of"]

_STYLES: Final = ("style.css", "board.css", "try.css")

_ICON: Final = "icon.svg"

#: The main module, and the modules that the report replaces by its own.
_FIRST: Final = "board/main.js"
_REPLACED: Final = {
    "api.js": "api.js",
    "board/live.js": "live.js",
    "board/actions.js": "absent.js",
    "method.js": "absent.js",
    "try.js": "absent.js",
}

#: Imports of names, exports of one name, and exports of a list, in the forms that the modules use.
_IMPORT: Final = re.compile(r'^import \{([^}]+)\} from "([^"]+)";$', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=(?:async )?(?:const|function|class) (\w+))", re.MULTILINE)
_EXPORTS: Final = re.compile(r"\bexport\{([^}]+)\};\s*$")

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="{icon}">
<style>{style}</style>
<script type="application/json" id="recording">{recording}</script>
<script type="module">{script}</script>
<body>
<noscript>This file needs JavaScript. It loads nothing, and sends nothing.</noscript>
</body>
</html>
"""


def page_of(recording: dict[str, Any]) -> str:
    """Return the document that shows a recording made by `record`."""
    icon = _data_url(_ICON)
    script = _script().replace(f"/static/{_ICON}", icon)
    style = "".join([*(read_file(file).decode() for file in _STYLES), _own("report.css")])
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    # `\u003c` is `<` in JSON. So no text in the data can end the script or start a comment.
    data = json.dumps(recording, separators=(",", ":")).replace("<", "\\u003c")
    title = escape(recording["answers"]["/api/v1/environment"]["data"]["name"])
    return _PAGE.format(policy=policy, title=title, icon=icon, style=style, recording=data, script=script)


def _script() -> str:
    """Join all needed modules into one script. Each becomes a function that returns its exports, after its imports."""
    done: dict[str, list[str]] = {}  # names that each module exports
    parts = ["const modules = {};\n"]

    def add(file: str, above: tuple[str, ...]) -> None:
        if file in above:
            raise ValueError(f"modules import each other: {' -> '.join([*above, file])}")
        if file in done:
            return
        text = _own(_REPLACED[file]) if file in _REPLACED else read_file(file).decode()

        def imported(found: re.Match[str]) -> str:
            names, other = found[1], posixpath.normpath(posixpath.join(posixpath.dirname(file), found[2]))
            add(other, (*above, file))
            missing = {name.split(" as ")[0].strip() for name in names.split(",")} - set(done[other])
            if missing:
                raise ValueError(f"{file} imports {sorted(missing)}, which {other} does not export")
            return f"const {{{names.replace(' as ', ': ')}}} = modules[{json.dumps(other)}];"

        text = _IMPORT.sub(imported, text)
        given = [f"{name}: {name}" for name in _EXPORT.findall(text)]
        listed = _EXPORTS.search(text)
        if listed is not None:
            given += [": ".join(reversed(name.split(" as "))) for name in listed[1].split(",")]
        text = _EXPORTS.sub("", _EXPORT.sub("", text))
        if re.search(r"^(import|export)\b", text, re.MULTILINE):
            raise ValueError(f"{file} imports or exports in a way that a report cannot have")
        done[file] = [each.split(":")[0] for each in given]
        parts.append(f"modules[{json.dumps(file)}] = (() => {{\n{text}\nreturn {{{', '.join(given)}}};\n}})();\n")

    add(_FIRST, ())
    return "".join(parts)


def _own(file: str) -> str:
    return files(__package__).joinpath("static", file).read_text(encoding="utf-8")


def _data_url(icon: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(read_file(icon)).decode()}"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
