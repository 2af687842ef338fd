"""
Replaces environment variables in a file's values: `${NAME}`, `${NAME:-default}`, and `$${` for a literal `${`.

One pass over the text replaces them. The content of a variable is not scanned again, and no message shows it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs

from sage_deploy_files.reading.events import UNPRINTABLE
from sage_deploy_files.reading.scalars import MAX_SCALAR
from sage_plugins.config.field_checks import shown
from sage_plugins.texts import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_BROUGHT", "Fault", "Replaced", "Variables"]

#: Maximum number of characters that variables bring into a file. A few bytes of the file can bring a very long value.
MAX_BROUGHT: Final = 1024 * 1024

_PIECE: Final = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{")
_SPELLING: Final = "write ${NAME} or ${NAME:-default}; $${ is a literal ${"
#: Only the first few errors get suggestions. An environment may have thousands of names.
_SUGGESTIONS: Final = 5
_SHOWN: Final = 60


@attrs.frozen
class Fault:
    """An error in the variables of a value. *offset* is the number of characters before it."""

    id: str
    offset: int
    message: str
    fix: str = ""


@attrs.frozen
class Replaced:
    """
    A text with its variables replaced.

    Attributes:
        text: The result. Not meaningful if there are faults.
        names: The variables in the text, each once, in the order of first use. Includes those whose default was used.
        faults: The errors, in the order of the text.
    """

    text: str
    names: tuple[str, ...]
    faults: tuple[Fault, ...]


class Variables:
    """
    Replaces variables of one environment in the values of one file.

    Args:
        environment: The variables by name. Each is read at most once.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        # The content of each variable, and what in it is not allowed in a file.
        self._known: dict[str, tuple[str | None, str]] = {}
        self._brought = 0
        self._suggestions = _SUGGESTIONS

    def replace(self, text: str) -> Replaced:
        """Replace the variables in a text, in time linear in the length of text and result."""
        parts: list[str] = []
        names: dict[str, None] = {}
        faults: list[Fault] = []
        brought = end = 0
        for found in _PIECE.finditer(text):
            parts.append(text[end : found.start()])
            end = found.end()
            if found[0] == "$${":
                parts.append("${")
                continue
            fault = _misspelled(found)
            if fault is not None:
                faults.append(fault)
                # The text after it may belong to it.
                break
            name = found["name"]
            names[name] = None
            value, unfit = self._value(name)
            if not value and found["default"] is not None:
                parts.append(found["default"])
            elif value is None:
                faults.append(self._missing(name, found.start()))
            elif unfit:
                message = f"the variable {shown(name)} has {unfit} in it"
                faults.append(Fault("E105", found.start(), message, "set it to plain text"))
            else:
                parts.append(value)
                brought += len(value)
        parts.append(text[end:])
        # Check the length before joining: until now, a variable that is used a thousand times is one string.
        length = sum(map(len, parts))
        self._brought += brought
        if not faults and length > MAX_SCALAR:
            message = f"a value of {length} characters with its variables put in; the most is {MAX_SCALAR}"
            faults.append(Fault("E108", 0, message, "shorten the variables"))
        if not faults and self._brought > MAX_BROUGHT:
            message = f"variables bring more than {MAX_BROUGHT} characters into the file"
            faults.append(Fault("E108", 0, message, "shorten them, or use them in fewer places"))
        return Replaced("" if faults else "".join(parts), tuple(names), tuple(faults))

    def _value(self, name: str) -> tuple[str | None, str]:
        known = self._known.get(name)
        if known is None:
            # os.environ decodes a variable on every access.
            value = self._environment.get(name)
            known = self._known[name] = value, _unfit(value or "")
        return known

    def _missing(self, name: str, offset: int) -> Fault:
        fix = f"set it, or write ${{{name if len(name) <= _SHOWN else 'NAME'}:-default}}"
        if self._suggestions:
            self._suggestions -= 1
            near = did_you_mean(name, self._environment)
            fix = f"did you mean {near!r}? If not, {fix}" if near else fix
        return Fault("E105", offset, f"the environment has no variable {shown(name)}", fix)


def _misspelled(found: re.Match[str]) -> Fault | None:
    """Return the error in the spelling of a reference to a variable, or None."""
    text, start = found.string, found.start()
    if found["name"] is None:
        close = text.find("}", start)
        inside = text[start : close + 1]
        if close < 0 or "${" in inside[2:]:
            return Fault("E105", start, f"this ${{ is not closed: {shown(text[start:])}", _SPELLING)
        return Fault("E105", start, f"{shown(inside)} does not name a variable of the environment", _SPELLING)
    inner = (found["default"] or "").find("${")
    if inner >= 0:
        message = f"the default of the variable {shown(found['name'])} has another ${{ in it"
        return Fault("E105", found.start("default") + inner, message, "a default is text, without variables")
    return None


def _unfit(value: str) -> str:
    """Return what in a variable's content is not allowed in a file, or an empty string."""
    found = None if value.isprintable() else UNPRINTABLE.search(value)
    if found is None:
        return ""
    # The interpreter turns bytes that it cannot decode into halves of surrogate pairs.
    return "bytes that are not text" if "\ud800" <= found[0] <= "\udfff" else "a control character"
