"""The work of `sage-deploy up --once`: store the history of this repository in the database and query it by window."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

AREAS = ("core", "plugins", "tests", "docs", "other")
HOURS_MS = 3_600_000
WINDOW_MS = 6 * HOURS_MS


class Context(Protocol):
    """What this class needs from the program that deploys it."""

    def service(self, name: str) -> Any:
        """Return a handle to the service called *name*."""


class Point(NamedTuple):
    """The number of lines that one commit changed in one area. The time is in milliseconds, as in the database."""

    time: int
    area: str
    lines: int


class History:
    """Runs the example once and returns a report."""

    def __init__(self, ctx: Context, series: str = "series", data: str | None = None) -> None:
        """
        Look up the database.

        Args:
            ctx: Gives a handle to the database.
            series: The name of the database's service.
            data: A file that `update_commits.py` wrote; default: `commits.csv` in this folder.
        """
        self._series = ctx.service(series)
        self._data = Path(data) if data else Path(__file__).with_name("commits.csv")

    def process(self) -> str:
        """
        Add each point with one call, query the sum of each window, and return the report.

        Raises:
            RuntimeError: The database lost points, or its line count differs from the file's.
        """
        points = read(self._data)
        self.add(points)
        first, last = points[0].time, points[-1].time
        windows = {area: self.windows(area, first, last) for area in AREAS}
        lines = sum(point.lines for point in points)
        if (summed := sum(sum(sums.values()) for sums in windows.values())) != lines:
            raise RuntimeError(f"the windows have {summed:,} lines in all, the file has {lines:,}")
        latest = self._series.query(first, last, tags={"area": "core"})[-1]
        return "\n".join([
            f"{len(points):,} points, added by {len(points):,} calls; lines changed in each window of 6 hours",
            "",
            *table(windows),
            "",
            f"the last change of the core had {latest['value']:,.0f} lines, at {clock(latest['timestamp'])}",
        ])  # fmt: skip

    def add(self, points: Iterable[Point]) -> None:
        """Submit all *points* at once; they may arrive in any order."""
        calls = [self._series.submit("add", point.time, point.lines, {"area": point.area}) for point in points]
        for call in calls:
            call.result()
        if (stored := self._series.stats()["db_size"]) != len(calls):
            raise RuntimeError(f"the database has {stored} points, {len(calls)} were added")

    def windows(self, area: str, first: int, last: int) -> dict[int, int]:
        """Return the start of each window in which *area* changed, with the number of changed lines."""
        found = self._series.window_aggregate(
            first, last, window_size=WINDOW_MS, aggregation="sum", tags={"area": area}
        )
        return {window["timestamp"]: round(window["value"]) for window in found}


def read(path: Path) -> list[Point]:
    """Return the points of a file, sorted by time."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        return sorted(Point(int(row["time"]) * 1000, row["area"], int(row["lines"])) for row in rows)


def table(windows: dict[str, dict[int, int]]) -> list[str]:
    """Return the table: one line for each window with changes, one column for each area."""
    starts = sorted({start for sums in windows.values() for start in sums})
    head = " " * 16 + "".join(f"{area:>10}" for area in windows)
    return [
        head,
        *(clock(start) + "".join(f"{sums.get(start, 0):>10,}" for sums in windows.values()) for start in starts),
    ]


def clock(milliseconds: int) -> str:
    """Format a time, such as 2026-11-23 12:00, in UTC."""
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M}"
