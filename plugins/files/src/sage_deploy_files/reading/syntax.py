"""Translates PyYAML's error messages for authors of deployment files: what is wrong, where, and what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Complaint", "explained"]

#: PyYAML's names of tokens in its messages.
_TOKENS: Final[Mapping[str, str]] = {
    "<alias>": "an alias",
    "<anchor>": "an anchor",
    "<block end>": "a line with less indentation",
    "<block mapping start>": "a key",
    "<block sequence start>": "a list item",
    "<directive>": "a directive",
    "<document end>": "the end of the document",
    "<document start>": "a second '---'",
    "<scalar>": "a value",
    "<stream end>": "the end of the file",
    "<tag>": "a tag",
    "-": "a list item",
    "?": "a key",
}


class Complaint(NamedTuple):
    """
    An error of the file as YAML.

    Attributes:
        line: Line, from 1.
        column: Column, from 1.
        message: What is wrong.
        fix: What to do. May be empty.
    """

    line: int
    column: int
    message: str
    fix: str = ""


class _Meaning(NamedTuple):
    """
    The translation of one of PyYAML's messages.

    Attributes:
        pattern: Regular expression for the message with its context. Its group, if any, matches what PyYAML found.
        message: Our message. `{0}` is the group, `{token}` the group as a token's name, `{start}` the place where the
            construct begins. Empty: keep PyYAML's message.
        fix: What to do.
        at_start: True: report the place where the construct begins. False: where PyYAML stopped.
    """

    pattern: str
    message: str
    fix: str
    at_start: bool = False


_QUOTE: Final = "put it in quotes"
_BACKSLASH: Final = r"write \\ for a backslash, or use single quotes"
_VERSION: Final = "remove the %YAML line; files are YAML 1.2"

#: The first match counts.
_MEANINGS: Final[Sequence[_Meaning]] = (
    _Meaning(r"'\\t'", "a tab cannot stand here", "write spaces"),
    _Meaning(
        "mapping values are not allowed",
        "",
        "check the indentation and that each key has ': ' behind it; put a value with ': ' in it in quotes",
    ),
    _Meaning(
        "could not find expected ':'",
        "this is no key: it has no ':' with a space behind it",
        "write 'key: value', with a space behind the colon",
        at_start=True,
    ),
    _Meaning("sequence entries are not allowed", "a list item cannot stand here", "put the list on lines of its own"),
    _Meaning("mapping keys are not allowed", "'?' cannot stand here", _QUOTE),
    _Meaning("character (.+) that cannot start any token", "a value cannot begin with {0}", _QUOTE),
    _Meaning(
        "scanning an alias",
        "'*' begins an alias, and no name of one follows",
        f"{_QUOTE} if it is no alias",
        at_start=True,
    ),
    _Meaning(
        "scanning an anchor", "'&' begins an anchor, and no name follows", f"{_QUOTE} if it is no anchor", at_start=True
    ),
    _Meaning(
        "undefined tag handle (.+) while", "tag handle {0} is not defined, and tags are not supported", "remove it"
    ),
    _Meaning("duplicate tag handle (.+)", "tag handle {0} is defined twice, and tags are not supported", "remove both"),
    _Meaning(
        "(?:parsing|scanning) a tag", "'!' begins a tag, and this is none", f"{_QUOTE} if it is no tag", at_start=True
    ),
    _Meaning("duplicate YAML directive", "a second %YAML line", _VERSION),
    _Meaning("incompatible YAML document", "this version of YAML is not supported", _VERSION),
    _Meaning("scanning a directive", "", "remove the line"),
    _Meaning("scanning a block scalar", "", "begin the text on the next line"),
    _Meaning("unknown escape character (.+) while", "a backslash with {0} is no escape", _BACKSLASH),
    _Meaning(r"escape sequence of (\d)", "this escape needs {0} hexadecimal digits", _BACKSLASH),
    _Meaning("scanning a quoted scalar", "this quote is not closed", "close it", at_start=True),
    _Meaning("got '<stream end>' while parsing a flow sequence", "this '[' is not closed", "add ']'", at_start=True),
    _Meaning("got '<stream end>' while parsing a flow mapping", "this '{{' is not closed", "add '}'", at_start=True),
    _Meaning(
        "but got '(.+)' while parsing a flow sequence",
        "{token} cannot stand here, in the list that begins at {start}",
        "check commas and brackets",
    ),
    _Meaning(
        "but got '(.+)' while parsing a flow mapping",
        "{token} cannot stand here, in the mapping that begins at {start}",
        "check commas and brackets",
    ),
    _Meaning(
        "expected <block end>, but found '(.+)' while parsing a block mapping",
        "{token} cannot stand here, in the mapping that begins at {start}",
        "check quotes and indentation",
    ),
    _Meaning(
        "expected <block end>, but found '(.+)' while parsing a block collection",
        "{token} cannot stand here, in the list that begins at {start}",
        "check quotes and indentation",
    ),
    _Meaning(
        "expected '<document start>', but found '(.+)'",
        "{token} cannot stand here, behind the end of the document",
        "check the indentation, or remove a line '...'",
    ),
    _Meaning(
        "expected the node content, but found '(.+)' while", "{token} cannot stand here, instead of a value", _QUOTE
    ),
)


def explained(error: Any, text: str) -> Complaint:
    """
    Return where the text is wrong, what is wrong there, and what to do.

    Args:
        error: PyYAML's `MarkedYAMLError`.
        text: The file.
    """
    mark = error.problem_mark or error.context_mark
    start = error.context_mark or mark
    if mark is not None and text[max(mark.index - 1, 0) : mark.index + 1] == "${":
        return Complaint(mark.line + 1, mark.column, "a ${...} without quotes cannot stand inside [ ] or { }", _QUOTE)
    context = _one_line(error.context or "").replace("while scanning for the next token", "")
    said = " ".join(part for part in (_one_line(error.problem or ""), context) if part)
    for meaning in _MEANINGS:
        found = re.search(meaning.pattern, said)
        if found is not None:
            group = "".join(found.groups())
            token = _TOKENS.get(group, f"'{group}'")
            message = meaning.message.format(group, token=token, start="{}:{}".format(*_place(start)))
            return Complaint(*_place(start if meaning.at_start else mark), message or said, meaning.fix)
    return Complaint(*_place(mark), said)


def _place(mark: Any) -> tuple[int, int]:
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
