"""What a class says about its attributes in the `Attributes:` section of its docstring."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["attribute_docs"]

_ENTRY: Final = re.compile(r"(?P<name>\w+)(?: \([^)]*\))?:\s*(?P<text>.*)")


def attribute_docs(cls: type) -> dict[str, str]:
    """
    The entries of the section by name, each on one line.

    What a base class says counts unless its heir says something else.
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= _entries(inspect.cleandoc(vars(base).get("__doc__") or ""))
    return found


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """The entries of the section; deeper lines go on with the entry before them."""
    _, _, section = f"\n{text}".partition("\nAttributes:\n")
    margin, name, parts = 0, "", list[str]()
    for line in section.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip() and not indent:
            break
        margin = margin or indent
        entry = _ENTRY.match(line.strip()) if indent == margin else None
        if entry is not None:
            if name:
                yield name, " ".join(parts)
            name, parts = entry["name"], [entry["text"]]
        elif line.strip():
            parts.append(line.strip())
    if name:
        yield name, " ".join(parts)
