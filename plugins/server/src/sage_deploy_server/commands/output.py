"""Options and output that several commands share."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from sage_deploy_cli.output import duration, printable, table, write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["DRY_RUN", "FORMAT", "YES", "confirm", "done", "service_table", "show"]

#: Options of commands that change something.
DRY_RUN = click.option("--dry-run", is_flag=True, help="Only print what would happen.")
YES = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")

#: Option of commands that print data.
FORMAT = click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["table", "wide", "json", "yaml"]),
    default="table",
    show_default=True,
    help="Output format.",
)


def show(data: Any, form: str, lay_out: Callable[[], str]) -> None:
    """Print *data* as JSON or YAML for programs, or laid out for people."""
    if form == "json":
        write(json.dumps(data, indent=2))
    elif form == "yaml":
        import yaml

        write(yaml.safe_dump(data, sort_keys=False, allow_unicode=True).rstrip())
    else:
        write(lay_out())


def service_table(rows: Sequence[dict[str, Any]], *, wide: bool) -> str:
    """Return a table with a line for each service."""
    head = ["SERVICE", "STATE", "READY", "CALLS", "ERRORS", "P50", "P95", "P99", "QUEUE", "THREADS"]
    head += ["REJECTED", "GENERATION", "WHY"] if wide else []
    cells = []
    for row in rows:
        cell = [
            row["name"],
            str(row["state"]),
            f"{row['ready']}/{row['wanted']}",
            str(row["calls"]),
            str(row["errors"]),
            *(duration(row[quantile] or 0) for quantile in ("p50", "p95", "p99")),
            str(row["queue"]),
            str(row["threads"]),
        ]
        cells.append([*cell, str(row["rejected"]), str(row["generation"]), row["why"]] if wide else cell)
    return table(head, cells, states=("STATE",))


def confirm(question: str, *, yes: bool) -> None:
    """
    Ask for confirmation at the terminal. Without a terminal, continue without asking.

    Raises:
        click.Abort: The answer is no.
    """
    if not yes and sys.stdin is not None and sys.stdin.isatty():
        click.confirm(question, abort=True, err=True)


def done(what: dict[str, Any], text: str) -> None:
    """Print what was done, or what would be done."""
    write(printable(f"would {text}" if what.get("dry_run") else text))
