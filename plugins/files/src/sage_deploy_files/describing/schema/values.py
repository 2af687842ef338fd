"""
What the schemas of single values have in common: variables of the environment, texts, choices.

Assertions of JSON Schema are about one type each, so one schema with several types says what would otherwise take a
union; editors answer a mistake in it with one message, not with one for each alternative. `errorMessage` and
`enumDescriptions` are words of editors: the first replaces their message about a type or a pattern, the second stands
beside each suggestion. Validators pass over both.
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

#: In a text that a variable of the environment is part of, whose value nobody knows yet.
VARIABLE: Final = r"\$\{"
#: How a message ends whose value may come from the environment.
VARIABLE_WORDS: Final = "${NAME} takes it from the environment"

#: A name of Python. It may have any character beyond ASCII: which of them are letters is left to the reader, for the
#: regular expressions of JSON Schema and Python differ in that.
IDENTIFIER: Final = r"[^\x00-@\[-\^`{-\x7f][^\x00-/:-@\[-\^`{-\x7f]*"


def whole(pattern: str) -> str:
    """A pattern that the whole text must fit, in Python as well: its `$` lets a line end follow."""
    return rf"^(?:{pattern})$(?!\n)"


#: A text that is not empty and has no blanks around it.
NOT_BLANK: Final = whole(r"\S(?:[\s\S]*\S)?")


def either(*patterns: str) -> str:
    """A pattern for what fits one of these."""
    return "|".join(patterns)


def literal(text: str) -> str:
    """A pattern for this text; `re.escape` also escapes what JSON Schema's regular expressions must not."""
    return re.sub(r"[\\^$.*+?()\[\]{}|/]", r"\\\g<0>", text)


def variable() -> dict[str, Any]:
    """What stands for a value that the environment has."""
    # The title keeps editors from taking it for the alternatives without one.
    return {"title": "variable of the environment", "type": "string", "pattern": VARIABLE}


def nullable(*types: str, optional: bool) -> str | list[str]:
    """The `type` of a schema: the only one, or all of them, null the last."""
    found = [*types, *(["null"] if optional else [])]
    return found[0] if len(found) == 1 else found


def with_default(schema: dict[str, Any], value: Any) -> dict[str, Any]:
    """
    The schema with the value that stands in for one that is left out.

    Null is not written down: it says nothing that the type does not, and editors fail on it where they expect a text.
    """
    return schema if value is None else {**schema, "default": value}


def types_of(schema: Mapping[str, Any]) -> list[str]:
    """The types that a schema names, in its order; none if it takes any, or says it in another way."""
    types = schema.get("type", [])
    return [types] if isinstance(types, str) else list(types)


def suggested(schema: dict[str, Any], offered: Mapping[str, str], *, title: str) -> dict[str, Any]:
    """
    The schema with values that an editor offers; it takes the same values as before.

    Args:
        schema: Takes strings, among others.
        offered: What to say of each value that is offered; nothing changes if there is none.
        title: What an editor calls one of these values.
    """
    if not offered:
        return schema
    values = sorted(offered)
    known = {"title": title, "enum": values, "enumDescriptions": [offered[value] for value in values]}
    # The opposite of the first, so that an editor never shows both for one value.
    other = {"title": f"{title} that is not installed", "not": {"enum": values}}
    return {**schema, "anyOf": [known, other]}
