"""
Write the tables of configuration fields into docs/configuration.md, from the declarations in the code.

    python tools/field_table.py

docs/zh/configuration.md gets the same tables with the texts of docs/zh/fields.toml. Tests compare both pages with the
output of this program, and the translation with its sources.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_plugins.config.nested_keys import (
    AUTOSCALE_FIELDS,
    BATCH_FIELDS,
    BREAKER_FIELDS,
    HEDGE_FIELDS,
    METHOD_FIELDS,
    OUTLIER_FIELDS,
    RECYCLE_FIELDS,
    RETRY_FIELDS,
    UPDATE_FIELDS,
)
from sage_plugins.config.service_config import GROUPS, fields, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sage_plugins.config.field_checks import FieldInfo

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "configuration.md"
CHINESE_PAGE = DOCS / "zh" / "configuration.md"
CHINESE = DOCS / "zh" / "fields.toml"
START, END = "<!-- fields:start -->", "<!-- fields:end -->"

#: Mappings with their own keys, in the order of the documentation: name in the translation, path, and keys.
MAPPINGS = {
    "methods": ("methods.<name>", METHOD_FIELDS),
    "batch": ("methods.<name>.batch", BATCH_FIELDS),
    "autoscale": ("autoscale", AUTOSCALE_FIELDS),
    "retry": ("retry", RETRY_FIELDS),
    "hedge": ("hedge", HEDGE_FIELDS),
    "circuit_breaker": ("circuit_breaker", BREAKER_FIELDS),
    "outlier": ("outlier", OUTLIER_FIELDS),
    "recycle": ("recycle", RECYCLE_FIELDS),
    "update": ("update", UPDATE_FIELDS),
}


def tables(say: Callable[[str], str] = str) -> str:
    """Return the tables, one for each group, with headings. *say* translates all texts except names and values."""
    lines = [
        START,
        say("<!-- Written by tools/field_table.py; edit sage_plugins/config/service_config.py instead. -->"),
        "",
    ]
    for group in GROUPS:
        lines += [say("### Group `{}`").format(group), ""]
        lines += _table((info for info in fields().values() if info.group == group), say)
    lines += [say("### The service's own level"), ""]
    lines += _table((info for info in fields().values() if info.group is None), say)
    for name, (path, infos) in MAPPINGS.items():
        lines += [say("### Below `{}`").format(path), ""]
        lines += _table(infos.values(), say, defaults=name not in {"methods", "batch"})
    return "\n".join([*lines, END])


def _table(infos: Iterable[FieldInfo], say: Callable[[str], str], *, defaults: bool = True) -> Iterator[str]:
    columns = ("field", "type", "default", "meaning") if defaults else ("field", "type", "meaning")
    yield f"| {' | '.join(map(say, columns))} |"
    yield f"| {' | '.join('---' for _ in columns)} |"
    for info in infos:
        kind = f"{info.type}, {info.range}" if info.range else info.type
        cells = [f"`{info.name}`", say(kind), say(info.doc)]
        if defaults:
            cells.insert(2, f"`{json.dumps(plain(info.default))}`")
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def updated(page: str, say: Callable[[str], str] = str) -> str:
    """Return the page with new tables."""
    before, rest = page.split(START)
    return before + tables(say) + rest.split(END)[1]


class Translation:
    """The content of docs/zh/fields.toml: `words` by English text, meanings by field name."""

    def __init__(self, text: str) -> None:
        """Parse the text of the file."""
        content: dict[str, Any] = tomllib.loads(text)
        self._words: dict[str, str] = content.pop("words")
        self._meanings = {f"{table}.{name}": entry for table, names in content.items() for name, entry in names.items()}
        self._chinese: dict[str, str] = self._words | {entry["en"]: entry["zh"] for entry in self._meanings.values()}

    def __call__(self, text: str) -> str:
        """Return the Chinese text, or *text* itself if there is no translation."""
        return self._chinese.get(text, text)

    def problems(self) -> list[str]:
        """Return what is not translated, what has changed since its translation, and what is no longer needed."""
        sources = {"fields": fields(), **{name: infos for name, (_, infos) in MAPPINGS.items()}}
        docs = {f"{table}.{name}": info.doc for table, infos in sources.items() for name, info in infos.items()}
        needed: dict[str, str] = {}
        tables(lambda text: needed.setdefault(text, text))
        words = needed.keys() - docs.values()
        changed = (name for name in docs.keys() & self._meanings.keys() if self._meanings[name]["en"] != docs[name])
        return sorted(
            chain(
                (f"{name}: not translated" for name in docs.keys() - self._meanings.keys()),
                (f"{name}: no such field" for name in self._meanings.keys() - docs.keys()),
                (f"{name}: the code says now: {docs[name]}" for name in changed),
                (f"words: {word!r} is not translated" for word in words - self._words.keys()),
                (f"words: {word!r} stands in no table" for word in self._words.keys() - words),
            )
        )


def main() -> None:
    """Rewrite the pages. Fail if the translation does not match the code."""
    chinese = Translation(CHINESE.read_text(encoding="utf-8"))
    for path, say in ((PAGE, str), (CHINESE_PAGE, chinese)):
        path.write_text(updated(path.read_text(encoding="utf-8"), say), encoding="utf-8")
        print(f"{path.relative_to(DOCS)}: {len(re.findall(r'^[|] `', tables(), re.MULTILINE))} fields")
    if problems := chinese.problems():
        sys.exit("\n".join([f"{CHINESE.relative_to(DOCS)} does not fit the code:", *problems]))


if __name__ == "__main__":
    main()
