"""
The parts that schemas of single values share: environment variables, texts, choices.

A keyword of JSON Schema applies to one type only, so one schema can list several types without `anyOf`. Editors then
show one message for a mistake, not one for each alternative. Two keywords are for editors only: `errorMessage` replaces
their message about a type or a pattern, and `enumDescriptions` is shown with each suggestion. Validators ignore both.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "IDENTIFIER",
    "NOT_BLANK",
    "VARIABLE",
    "VARIABLE_WORDS",
    "either",
    "literal",
    "nullable",
    "suggested",
    "types_of",
    "variable",
    "whole",
    "with_default",
]

#: Matches a text with an environment variable, whose value is not known yet.
VARIABLE: Final = r"\$\{"
#: End of messages about values that may come from the environment.
VARIABLE_WORDS: Final = "${NAME} takes it from the environment"

#: A Python name. Any character beyond ASCII is allowed here, because regular expressions of JSON Schema and Python
#: disagree about which are letters. The reader checks them.
IDENTIFIER: Final = r"[^\x00-@\[-\^`{-\x7f][^\x00-/:-@\[-\^`{-\x7f]*"


def whole(pattern: str) -> str:
    """Return a pattern that must match the whole text. In Python, `$` alone would allow a line end after it."""
    return rf"^(?:{pattern})$(?!\n)"


#: A text that is not empty and has no blanks around it.
NOT_BLANK: Final = whole(r"\S(?:[\s\S]*\S)?")


def either(*patterns: str) -> str:
    """Return a pattern that matches what one of the patterns matches."""
    return "|".join(patterns)


def literal(text: str) -> str:
    """Return a pattern for this text. `re.escape` would escape characters that JSON Schema must not escape."""
    return re.sub(r"[\\^$.*+?()\[\]{}|/]", r"\\\g<0>", text)


def variable() -> dict[str, Any]:
    """Return the schema of a text with an environment variable."""
    # Editors treat alternatives without a title as the same, so this one has a title.
    return {"title": "variable of the environment", "type": "string", "pattern": VARIABLE}


def nullable(*types: str, optional: bool) -> str | list[str]:
    """Return the `type` of a schema: one type, or a list with null at the end."""
    found = [*types, *(["null"] if optional else [])]
    return found[0] if len(found) == 1 else found


def with_default(schema: dict[str, Any], value: Any) -> dict[str, Any]:
    """
    Return the schema with a default.

    A default of null is left out: the type already allows it, and some editors fail on it where they expect a text.
    """
    return schema if value is None else {**schema, "default": value}


def types_of(schema: Mapping[str, Any]) -> list[str]:
    """Return the types that a schema names, in its order. Empty if it allows any type, or uses other keywords."""
    types = schema.get("type", [])
    return [types] if isinstance(types, str) else list(types)


def suggested(schema: dict[str, Any], offered: Mapping[str, str], *, title: str) -> dict[str, Any]:
    """
    Return the schema with values that editors offer. It still accepts the same values.

    Args:
        schema: A schema that accepts strings, among others.
        offered: The offered values, each with a description. If empty, the schema is returned unchanged.
        title: What editors call one of these values.
    """
    if not offered:
        return schema
    values = sorted(offered)
    known = {"title": title, "enum": values, "enumDescriptions": [offered[value] for value in values]}
    # Excludes the first alternative, so that editors never show both for one value.
    other = {"title": f"{title} that is not installed", "not": {"enum": values}}
    return {**schema, "anyOf": [known, other]}
