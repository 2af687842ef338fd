"""
A file's bytes as PyYAML's stream of events, and what is wrong with them as text and as YAML.

Nothing further of PyYAML is used: no composer, no resolver, no constructor. So nothing is ever constructed from a tag.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_BYTES", "UNPRINTABLE", "Flaw", "StopReadingError", "decoded", "events"]

#: PyYAML takes two seconds for a file of this size, in the worst case.
MAX_BYTES: Final = 256 * 1024

_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
#: A character that YAML does not allow in a file.
UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@attrs.frozen
class Flaw:
    """Something in the file that is wrong as YAML, with its place; lines and columns count from 1."""

    id: str
    line: int
    column: int
    message: str
    fix: str = ""


class StopReadingError(Exception):
    """The rest of the file cannot be read, or is not worth it."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.message)
        self.flaw = flaw


# Bytes to text.


def decoded(data: bytes) -> str:
    """
    The file's text.

    Raises:
        StopReadingError: The file is too large, not UTF-8, or has a character in it that YAML does not allow.
    """
    if len(data) > MAX_BYTES:
        message = f"the file is larger than {MAX_BYTES // 1024} KiB"
        raise StopReadingError(Flaw("E108", 1, 1, message, "split it into several files"))
    # Of the beginning of a file in UTF-8, which is text, no byte is zero.
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or (0 in data[:4] and len(data) % 2 == 0):
        raise StopReadingError(Flaw("E110", 1, 1, "the file is UTF-16 or UTF-32, not UTF-8", "save it as UTF-8"))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # With a byte order mark the codec counts from behind it; the bytes that it was given know where it stopped.
        start = error.start + len(data) - len(error.object)
        line, column = _place(data[:start].decode("utf-8-sig", errors="replace"))
        message = f"byte 0x{data[start]:02x} at offset {start} is not UTF-8"
        raise StopReadingError(Flaw("E110", line, column, message, "save the file as UTF-8")) from None
    found = UNPRINTABLE.search(text)
    if found:
        raise StopReadingError(_forbidden(text, found.start(), f"the control character U+{ord(found[0]):04X} is not"))
    if (mark := text.find("\ufeff")) >= 0:
        raise StopReadingError(_forbidden(text, mark, "a byte order mark, which nobody sees, is only at the beginning"))
    return text


def _forbidden(text: str, offset: int, what: str) -> Flaw:
    line, column = _place(text[:offset])
    return Flaw("E110", line, column, f"{what} allowed", "remove it, or write it as an escape in quotes")


def _place(before: str) -> tuple[int, int]:
    """Line and column of what comes after the text *before*, with the line breaks that PyYAML counts."""
    lines = _BREAK.split(before)
    return len(lines), len(lines[-1]) + 1


# Text to events.


@functools.cache
def _loader() -> Any:
    # imported here: PyYAML costs 10 ms, and most processes read no file
    from yaml.parser import Parser
    from yaml.reader import Reader
    from yaml.scanner import Scanner

    class Events(Reader, Scanner, Parser):
        """PyYAML up to the events: no composer, no resolver, no constructor, so nothing to switch off."""

        def __init__(self, text: str) -> None:
            Reader.__init__(self, text)
            Scanner.__init__(self)
            Parser.__init__(self)

    return Events


def events(text: str) -> Iterator[Any]:
    """
    PyYAML's events of a text, in their order; each is parsed when it is asked for.

    Raises:
        StopReadingError: The text is not valid YAML from here on.
    """
    from yaml import MarkedYAMLError

    loader = _loader()(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    except MarkedYAMLError as error:
        raise StopReadingError(_syntax_flaw(error, text)) from None
    except Exception as error:  # noqa: BLE001 - PyYAML lets others pass, such as ValueError for "\UFFFFFFFF"
        flaw = Flaw("E110", loader.line + 1, loader.column + 1, f"not valid YAML: {_one_line(str(error))}")
        raise StopReadingError(flaw) from None


def _syntax_flaw(error: Any, text: str) -> Flaw:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    what = _one_line(error.problem or "")
    context = _one_line(error.context or "").replace("while scanning for the next token", "")
    fix = ""
    if "'\\t'" in what:
        what, fix = "a tab cannot stand here", "indent with spaces"
    elif "mapping values are not allowed" in what:
        fix = "check the indentation; put a value with ': ' in it in quotes"
    elif "could not find expected ':'" in what:
        fix = "write 'key: value', with a space behind the colon"
    elif mark and text[max(mark.index - 1, 0) : mark.index + 1] == "${":
        column -= 1
        what, context, fix = "a ${...} without quotes cannot stand inside [ ] or { }", "", "put it in quotes"
    return Flaw("E110", line, column, f"not valid YAML: {what}" + (f" {context}" if context else ""), fix)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
