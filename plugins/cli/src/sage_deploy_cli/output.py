"""
How the commands write: data to stdout, progress to stderr, and nothing that a terminal would take for a command.

Text from files, plugins and exceptions may hold anything. What is written here has its control characters escaped.
Colour is only an addition to words, and only where a person looks.
"""

from __future__ import annotations

import errno
import os
import sys
import unicodedata
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

__all__ = [
    "coloured",
    "complain",
    "duration",
    "heading",
    "paragraph",
    "printable",
    "printable_text",
    "progress",
    "state",
    "table",
    "wrapped",
    "write",
    "write_json",
    "write_result",
]

#: Colours of the words for how something is.
_COLOURS: Final = {
    "ok": "green",
    "ready": "green",
    "warning": "yellow",
    "degraded": "yellow",
    "unready": "yellow",
    "draining": "yellow",
    "starting": "yellow",
    "disabled": "yellow",
    "failure": "red",
    "failed": "red",
    "unhealthy": "red",
    "crash_loop": "red",
}
#: Lines of prose are no longer than this, however wide the terminal is.
_WIDEST: Final = 100


def coloured() -> bool:
    """Whether stdout gets colours: on a terminal, unless the variables NO_COLOR, FORCE_COLOR or TERM say otherwise."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return _at_terminal() and os.environ.get("TERM") != "dumb"


def _at_terminal() -> bool:
    """Whether a person reads stdout; nobody does if the process was started without one."""
    return sys.stdout is not None and not sys.stdout.closed and sys.stdout.isatty()


def _echo(text: object, *, color: bool | None = None) -> None:
    """
    Write a line to stdout.

    Raises:
        click.ClickException: It cannot be written, for want of space on a disk for instance.
    """
    try:
        click.echo(text, color=color)
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader has gone: click ends the command without a word
            raise
        sys.stdout = None  # what it still holds cannot be written when the interpreter ends, either
        raise click.ClickException(f"the output cannot be written: {error.strerror}") from error


def printable(text: object) -> str:
    """A text on one line, every character escaped that a terminal could obey or that breaks the line."""
    return _escaped(str(text))


def printable_text(text: object) -> str:
    """As `printable`, but line breaks and tabs remain."""
    return "\n".join("\t".join(map(_escaped, line.split("\t"))) for line in str(text).split("\n"))


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        # Spaces of other scripts are not "printable", and do no harm.
        character
        if character.isprintable() or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def progress(text: object) -> None:
    """Tell the person who waits, on stderr, what happens; nobody does if that cannot be written."""
    _tell(printable_text(text))


def complain(text: object) -> None:
    """Say on stderr what is wrong; lines after the first are indented, so that none poses as another message."""
    first, *others = printable_text(text).split("\n")
    _tell("\n".join([first, *(line if line[:1] in {"", " "} else f"  {line}" for line in others)]))


def _tell(text: str) -> None:
    # A terminal that was closed, or a full disk, is no reason to stop what the command does.
    with suppress(OSError, ValueError):
        click.echo(text, err=True)


def write(text: object = "") -> None:
    """Write data to stdout as it is, colours included; what comes from elsewhere is made `printable` before."""
    _echo(text, color=coloured())


def write_result(result: object) -> None:
    """Write what a service answered: unchanged for programs, without what a terminal could obey for people."""
    _echo(printable_text(result) if _at_terminal() else result, color=True)


def write_json(content: Mapping[str, Any]) -> None:
    """Write *content* for programs; `version` changes when a key that is there changes its meaning."""
    import json

    _echo(json.dumps({"version": 1, **content}, indent=2, default=str))


def heading(text: str) -> str:
    """Stress a line."""
    return click.style(printable(text), bold=True) if coloured() else printable(text)


def state(word: str, width: int = 0) -> str:
    """The word for how something is, in its colour, and with spaces up to *width* after it."""
    padded = word.ljust(width)
    return click.style(padded, fg=_COLOURS.get(word)) if coloured() and word in _COLOURS else padded


def paragraph(text: str, indent: str = "") -> str:
    """Lay out prose: on one line for programs, in lines that fit for people."""
    text = printable(text)
    if not _at_terminal():
        return f"{indent}{text}"
    import shutil
    import textwrap

    width = min(shutil.get_terminal_size().columns, _WIDEST)
    return textwrap.fill(text, max(width, 40), initial_indent=indent, subsequent_indent=indent)


def wrapped(line: str) -> list[str]:
    """One line in parts that fit for people, the later ones further in; whole for programs."""
    if not _at_terminal():
        return [line]
    import shutil
    import textwrap

    indent = " " * (len(line) - len(line.lstrip()) + 6)
    width = max(min(shutil.get_terminal_size().columns, _WIDEST), 40)
    return textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False) or [""]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], states: Collection[str] = ()) -> str:
    """
    Lay out rows in columns that are as wide as they must be.

    Args:
        head: The columns' names.
        rows: As many cells each.
        states: The columns whose cells are states.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = ["  ".join(map(str.ljust, head, widths)).rstrip()]
    for row in cells:
        padded = [
            state(cell, width) if name in states else cell.ljust(width)
            for name, cell, width in zip(head, row, widths, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """`"412 us"`, `"3.1 ms"` or `"2.5 s"`; `"-"` for nothing measured."""
    if seconds == 0:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds * 1e6:.0f} us"
