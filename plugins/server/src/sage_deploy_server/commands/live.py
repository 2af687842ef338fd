"""The command `top`, which shows running services live."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from sage_deploy_cli.output import duration, printable, table, write
from sage_deploy_server.commands.environment_options import environment_options

if TYPE_CHECKING:
    from sage_deploy_server.commands.client import EnvironmentClient

__all__ = ["top"]


@click.command("top")
@click.option(
    "--interval", type=click.FloatRange(min=0.2), default=1.0, show_default=True, help="Seconds between refreshes."
)
@click.option("--count", type=click.IntRange(min=1), help="Number of refreshes; default: until Ctrl-C.")
@environment_options
def top(client: EnvironmentClient, interval: float, count: int | None) -> None:
    """Show running services live: calls and errors a second, times, queues."""
    before, then = _rows(client), time.monotonic()
    while count is None or count > 0:
        time.sleep(interval)
        now, at = _rows(client), time.monotonic()
        if sys.stdout.isatty():
            click.clear()
        write(_table(now, before, at - then))
        before, then = now, at
        count = None if count is None else count - 1


def _rows(client: EnvironmentClient) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in client.get("/api/v1/services")}


def _table(now: dict[str, dict[str, Any]], before: dict[str, dict[str, Any]], seconds: float) -> str:
    """
    Return a table with a line for each service. Services that are not ready come first.

    Args:
        now: Rows of the services, by name.
        before: The rows from *seconds* ago.
        seconds: Age of *before*.
    """
    rows = []
    for name, row in sorted(now.items(), key=lambda item: (item[1]["state"] == "ready", item[0])):
        earlier = before.get(name, row)
        rows.append(
            (
                name,
                str(row["state"]),
                f"{row['ready']}/{row['replicas']}",
                _rate(row["calls"], earlier["calls"], seconds),
                _rate(row["errors"], earlier["errors"], seconds),
                *(duration(row[quantile] or 0) for quantile in ("p50", "p95", "p99")),
                str(row["queue"]),
                str(row["threads"]),
                printable(row["why"]),
            )
        )
    head = ("SERVICE", "STATE", "READY", "CALLS/S", "ERRORS/S", "P50", "P95", "P99", "QUEUE", "THREADS", "WHY")
    return table(head, rows, states=("STATE",))


def _rate(now: int, before: int, seconds: float) -> str:
    """Format calls per second. A replaced service counts from zero again."""
    return f"{max(0, now - before) / seconds:.1f}"
