"""
Variables of the environment in a file's values: `${NAME}`, `${NAME:-default}`, and `$${` for a literal `${`.

One pass over the text puts them in. What a variable contains is not looked at again, and no message shows it.
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

#: Characters that variables bring into a file, at most: a few bytes of the file may bring as many as a value can have.
MAX_BROUGHT: Final = 1024 * 1024

_PIECE: Final = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{")
_SPELLING: Final = "write ${NAME} or ${NAME:-default}; $${ is a literal ${"
#: Nobody reads more suggestions, and an environment may have thousands of names.
_SUGGESTIONS: Final = 5
_SHOWN: Final = 60


@attrs.frozen
class Fault:
    """What is wrong with the variables of a value; *offset* counts the characters before it."""

    id: str
    offset: int
    message: str
    fix: str = ""


@attrs.frozen
class Replaced:
    """
    A text with its variables put in.

    Attributes:
        text: The result; means nothing if there are faults.
        names: The variables of the text, each once, in the order of their first use; one counts also where its default
            was taken.
        faults: What is wrong, in the order of the text.
    """

    text: str
    names: tuple[str, ...]
    faults: tuple[Fault, ...]


class Variables:
    """
    Puts the variables of one environment into the values of one file.

    Args:
        environment: The variables by name; each is read at most once.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        # What each variable has in it, and what of that cannot stand in a file.
        self._known: dict[str, tuple[str | None, str]] = {}
        self._brought = 0
        self._suggestions = _SUGGESTIONS

    def replace(self, text: str) -> Replaced:
        """Put the variables into a text; takes time linear in the text and in what the variables bring."""
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
                # What comes behind it may be meant as a part of it.
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
        # Not joined before it is known to be short: a variable that stands there a thousand times is one string so far.
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
            # os.environ decodes a variable each time that it is asked for it.
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
    """What is wrong with the spelling of a reference to a variable."""
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
    """What a variable has in it that cannot stand in a file; empty if there is nothing."""
    found = None if value.isprintable() else UNPRINTABLE.search(value)
    if found is None:
        return ""
    # Bytes that the interpreter cannot decode become halves of surrogate pairs.
    return "bytes that are not text" if "\ud800" <= found[0] <= "\udfff" else "a control character"
