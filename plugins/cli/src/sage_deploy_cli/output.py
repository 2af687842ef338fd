"""
Writes the output of commands: data to stdout, progress to stderr, with control characters escaped.

Text from files, plugins and exceptions may hold control characters that a terminal would obey. Colours only add to
words, and appear only on terminals.
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

#: Colours of state words.
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
#: Lines of prose have at most this many characters, however wide the terminal is.
_WIDEST: Final = 100


def coloured() -> bool:
    """Whether stdout gets colours: on a terminal, unless NO_COLOR, FORCE_COLOR or TERM says otherwise."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return _at_terminal() and os.environ.get("TERM") != "dumb"


def _at_terminal() -> bool:
    """Whether stdout is a terminal. It is None if the process was started without a stdout."""
    return sys.stdout is not None and not sys.stdout.closed and sys.stdout.isatty()


def _echo(text: object, *, color: bool | None = None) -> None:
    """
    Write a line to stdout.

    Raises:
        click.ClickException: Stdout cannot be written, for instance because a disk is full.
    """
    try:
        click.echo(text, color=color)
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader has closed the pipe: click ends the command silently
            raise
        sys.stdout = None  # the buffered rest cannot be written either, so the interpreter would fail on exit
        raise click.ClickException(f"the output cannot be written: {error.strerror}") from error


def printable(text: object) -> str:
    """Return the text on one line, with control characters and line breaks escaped."""
    return _escaped(str(text))


def printable_text(text: object) -> str:
    """As `printable`, but line breaks and tabs remain."""
    return "\n".join("\t".join(map(_escaped, line.split("\t"))) for line in str(text).split("\n"))


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        # Spaces of other scripts are harmless, but `isprintable` rejects them.
        character
        if character.isprintable() or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def progress(text: object) -> None:
    """Show progress on stderr. If stderr cannot be written, nothing is shown."""
    _tell(printable_text(text))


def complain(text: object) -> None:
    """Show an error on stderr. Lines after the first are indented, so that none looks like another message."""
    first, *others = printable_text(text).split("\n")
    _tell("\n".join([first, *(line if line[:1] in {"", " "} else f"  {line}" for line in others)]))


def _tell(text: str) -> None:
    # A closed terminal or a full disk must not stop the command.
    with suppress(OSError, ValueError):
        click.echo(text, err=True)


def write(text: object = "") -> None:
    """Write trusted text to stdout, colours included. Make text from elsewhere `printable` first."""
    _echo(text, color=coloured())


def write_result(result: object) -> None:
    """Write a service's reply: unchanged for programs, with control characters escaped on a terminal."""
    _echo(printable_text(result) if _at_terminal() else result, color=True)


def write_json(content: Mapping[str, Any]) -> None:
    """Write *content* as JSON for programs. `version` changes when an existing key changes its meaning."""
    import json

    _echo(json.dumps({"version": 1, **content}, indent=2, default=str))


def heading(text: str) -> str:
    """Return the text in bold."""
    return click.style(printable(text), bold=True) if coloured() else printable(text)


def state(word: str, width: int = 0) -> str:
    """Return a state word in its colour, padded to *width*."""
    padded = word.ljust(width)
    return click.style(padded, fg=_COLOURS.get(word)) if coloured() and word in _COLOURS else padded


def paragraph(text: str, indent: str = "") -> str:
    """Wrap prose to the terminal's width. If stdout is no terminal, return one line."""
    text = printable(text)
    if not _at_terminal():
        return f"{indent}{text}"
    import shutil
    import textwrap

    width = min(shutil.get_terminal_size().columns, _WIDEST)
    return textwrap.fill(text, max(width, 40), initial_indent=indent, subsequent_indent=indent)


def wrapped(line: str) -> list[str]:
    """Wrap a line to the terminal's width, with later parts indented. If stdout is no terminal, return it whole."""
    if not _at_terminal():
        return [line]
    import shutil
    import textwrap

    indent = " " * (len(line) - len(line.lstrip()) + 6)
    width = max(min(shutil.get_terminal_size().columns, _WIDEST), 40)
    return textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False) or [""]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], states: Collection[str] = ()) -> str:
    """
    Lay out rows in columns of the smallest width that fits.

    Args:
        head: Names of the columns.
        rows: The rows; each has one cell for each column.
        states: Columns whose cells are state words.
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
    """Return `"412 us"`, `"3.1 ms"` or `"2.5 s"`; `"-"` for 0, which means not measured."""
    if seconds == 0:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds * 1e6:.0f} us"
