"""
Write the tables of configuration fields into docs/configuration.md, from the declarations in the code.

    python tools/field_table.py

A test compares what stands there with what this would write.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from sage_plugins.config import BATCH_FIELDS, GROUPS, METHOD_FIELDS, FieldInfo, fields, plain
from sage_plugins.factory import _NOT_YET

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
START, END = "<!-- fields:start -->", "<!-- fields:end -->"

_NO_EFFECT = "**No effect yet** (W13)."


def tables() -> str:
    """The tables, one for each group, with a heading."""
    lines = [START, "<!-- Written by tools/field_table.py; edit sage_plugins/config.py instead. -->", ""]
    for group in (*GROUPS, None):
        lines += ["### The service's own level" if group is None else f"### Group `{group}`", ""]
        lines += _table(info for info in fields().values() if info.group == group)
    lines += ["### Below `methods.<name>`", "", *_table(METHOD_FIELDS.values(), defaults=False)]
    lines += ["### Below `methods.<name>.batch`", "", *_table(BATCH_FIELDS.values(), defaults=False)]
    return "\n".join([*lines, END])


def _table(infos: Iterable[FieldInfo], *, defaults: bool = True) -> Iterator[str]:
    yield "| field | type | default | meaning |" if defaults else "| field | type | meaning |"
    yield "| --- | --- | --- | --- |" if defaults else "| --- | --- | --- |"
    for info in infos:
        kind = f"{info.type}, {info.range}" if info.range else info.type
        # Batching of any kind, and a bound for each method, are declared but not built; compose() warns of them too.
        idle = info.name in _NOT_YET if defaults else info.name in {"batch", "max_concurrency", *BATCH_FIELDS}
        cells = [f"`{info.name}`", kind, info.doc + (f" {_NO_EFFECT}" if idle else "")]
        if defaults:
            cells.insert(2, f"`{json.dumps(plain(info.default))}`")
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def updated(page: str) -> str:
    """The text of the page with its tables written anew."""
    before, rest = page.split(START)
    return before + tables() + rest.split(END)[1]


def main() -> None:
    """Rewrite the page, if need be."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(updated(page), encoding="utf-8")
    print(f"{PAGE.name}: {len(re.findall(r'^[|] `', tables(), re.MULTILINE))} fields")


if __name__ == "__main__":
    main()
