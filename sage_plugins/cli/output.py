"""How the commands write: tables for stdout, progress for stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["duration", "progress", "table"]


def progress(text: str) -> None:
    """Tell the person who waits, on stderr, what happens."""
    click.echo(text, err=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out the rows below *head*, in columns that are as wide as they must be."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """`"412 us"`, `"3.1 ms"` or `"2.5 s"`; `"-"` for nothing measured."""
    if seconds == 0:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds * 1e6:.0f} us"
