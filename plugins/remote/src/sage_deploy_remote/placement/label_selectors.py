"""
Parses selectors for a node's label, such as `in(a, b)`.

The language and its meaning are Ray's, with two additions: `exists` and `!exists`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FORMS", "LabelRequirement", "SelectorError", "parse_requirement"]

#: The forms of a selector, for messages.
FORMS: Final = "value, !value, in(a, b), !in(a, b), exists or !exists"

# Ray's syntax of labels, which is that of Kubernetes; nodes cannot have other labels.
_VALUE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_LABEL: Final = re.compile(rf"(?:[A-Za-z0-9.-]{{1,253}}/)?{_VALUE.pattern}")
_SPACES: Final = re.compile(r" *")


class SelectorError(ValueError):
    """
    A text is not a selector.

    Attributes:
        position: Where the error is, in characters from 1; 0 if the label's name is wrong.
    """

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position

    def __reduce__(self) -> tuple[type[SelectorError], tuple[str, int]]:
        """Pickle it with its position."""
        return type(self), (str(self), self.position)


class LabelRequirement(NamedTuple):
    """
    A condition for one label of a node.

    Attributes:
        label: Name of the label.
        negated: Whether the label must not have one of the values. As in Ray, a node without the label then matches.
        values: The values; None for any value, so that only the label's presence counts.
    """

    label: str
    negated: bool
    values: tuple[str, ...] | None

    def unmet_by(self, labels: Mapping[str, str]) -> str:
        """Return why a node with *labels* does not match, such as `"lacks label zone=a"`; empty if it matches."""
        found = labels.get(self.label)
        meets = found is not None and (self.values is None or found in self.values)
        if meets is not self.negated:
            return ""
        if self.negated:
            return f"has label {self.label}={found}"
        has = "" if found is None else f" (it has {self.label}={found})"
        if self.values is None:
            return f"lacks label {self.label}"
        if len(self.values) == 1:
            return f"lacks label {self.label}={self.values[0]}{has}"
        return f"lacks label {self.label} in ({', '.join(self.values)}){has}"


def parse_requirement(label: str, text: str) -> LabelRequirement:
    """
    Parse the selector *text* for *label*.

    Args:
        label: Name of the label.
        text: One of `value`, `!value`, `in(a, b)`, `!in(a, b)`, `exists`, `!exists`. Write a value that is spelled like
            a keyword as `in(exists)`.

    Raises:
        SelectorError: *text* has none of these forms, or no node could have such a label or value.
    """
    if not _LABEL.fullmatch(label):
        raise SelectorError(f"{label!r} is not the name of a label: no node can have it", 0)
    negated = text.startswith("!")
    start = int(negated)
    if text[start:] == "exists":
        return LabelRequirement(label, negated, None)
    if text.startswith("in(", start):
        values, end = _list(text, start + 3)
    else:
        value, end = _value(text, start)
        values = (value,)
    if end < len(text):
        _fail(text, end, "nothing more")
    return LabelRequirement(label, negated, values)


def _list(text: str, at: int) -> tuple[tuple[str, ...], int]:
    """Return the values up to the closing parenthesis, and the position after it."""
    values: list[str] = []
    while True:
        value, at = _value(text, _skip(text, at))
        values.append(value)
        at = _skip(text, at)
        if text.startswith(")", at):
            return tuple(values), at + 1
        if not text.startswith(",", at):
            _fail(text, at, "',' or ')'")
        at += 1


def _value(text: str, at: int) -> tuple[str, int]:
    found = _VALUE.match(text, at)
    if found is None:
        _fail(text, at, "a value of letters, digits, '-', '_' and '.'")
    return found[0], found.end()


def _skip(text: str, at: int) -> int:
    found = _SPACES.match(text, at)
    return at if found is None else found.end()


def _fail(text: str, at: int, wanted: str) -> NoReturn:
    found = repr(text[at]) if at < len(text) else "the end"
    raise SelectorError(f"{text!r} is no selector: expected {wanted} at character {at + 1}, found {found}", at + 1)
