"""
Turns a file's bytes into PyYAML's stream of events, and reports errors of encoding and syntax.

It uses no other part of PyYAML: no composer, no resolver, no constructor. So tags can never construct objects.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_deploy_files.reading.syntax import explained

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_BYTES", "UNPRINTABLE", "Flaw", "StopReadingError", "decoded", "events"]

#: In the worst case, PyYAML takes two seconds for a file of this size.
MAX_BYTES: Final = 256 * 1024

_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
#: Matches a character that YAML does not allow in a file.
UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@attrs.frozen
class Flaw:
    """An error of the file as YAML, with its place. Lines and columns count from 1."""

    id: str
    line: int
    column: int
    message: str
    fix: str = ""


class StopReadingError(Exception):
    """The rest of the file cannot be read, or reading it is not worth the time."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.message)
        self.flaw = flaw


# Bytes to text.


def decoded(data: bytes) -> str:
    """
    Return the file's text.

    Raises:
        StopReadingError: The file is too large, not UTF-8, or contains a character that YAML does not allow.
    """
    if len(data) > MAX_BYTES:
        message = f"the file is larger than {MAX_BYTES // 1024} KiB"
        raise StopReadingError(Flaw("E108", 1, 1, message, "split it into several files"))
    # A file in UTF-8 that begins with text has no zero bytes there.
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or (0 in data[:4] and len(data) % 2 == 0):
        raise StopReadingError(Flaw("E110", 1, 1, "the file is UTF-16 or UTF-32, not UTF-8", "save it as UTF-8"))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # After a byte order mark, offsets count from behind it. `error.object` shows how many bytes are missing.
        start = error.start + len(data) - len(error.object)
        line, column = _place(data[:start].decode("utf-8-sig", errors="replace"))
        message = f"byte 0x{data[start]:02x} at offset {start} is not UTF-8"
        raise StopReadingError(Flaw("E110", line, column, message, "save the file as UTF-8")) from None
    found = UNPRINTABLE.search(text)
    if found:
        raise StopReadingError(_forbidden(text, found.start(), f"the control character U+{ord(found[0]):04X}"))
    if (mark := text.find("\ufeff")) >= 0:
        raise StopReadingError(_forbidden(text, mark, "a byte order mark, U+FEFF, behind the beginning of the file"))
    return text


def _forbidden(text: str, offset: int, what: str) -> Flaw:
    line, column = _place(text[:offset])
    return Flaw("E110", line, column, f"{what} is not allowed", "remove it, or write it as an escape in quotes")


def _place(before: str) -> tuple[int, int]:
    """Return line and column of the character after the text *before*, with PyYAML's line breaks."""
    lines = _BREAK.split(before)
    return len(lines), len(lines[-1]) + 1


# Text to events.


@functools.cache
def _loader() -> Any:
    # Imported here: PyYAML takes 10 ms, and most processes read no file.
    from yaml.parser import Parser
    from yaml.reader import Reader
    from yaml.scanner import Scanner

    class Events(Reader, Scanner, Parser):
        """PyYAML up to the events. It has no composer, resolver or constructor that would need switching off."""

        def __init__(self, text: str) -> None:
            Reader.__init__(self, text)
            Scanner.__init__(self)
            Parser.__init__(self)

    return Events


def events(text: str) -> Iterator[Any]:
    """
    Yield PyYAML's events of a text in order. Each is parsed on demand.

    Raises:
        StopReadingError: The text is not valid YAML from here on.
    """
    from yaml import MarkedYAMLError

    loader = _loader()(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    except MarkedYAMLError as error:
        line, column, message, fix = explained(error, text)
        raise StopReadingError(Flaw("E110", line, column, f"not valid YAML: {message}", fix)) from None
    except (OverflowError, ValueError):
        # PyYAML does not catch what chr() raises.
        message = "not valid YAML: no character has the number of this escape"
        fix = "write the character, or its number with \\U and 8 digits, at most 0010FFFF"
        raise StopReadingError(Flaw("E110", loader.line + 1, loader.column + 1, message, fix)) from None
