"""The work of `sage-deploy up --once`: put the history of this repository into the database, and ask it for windows."""

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
    """What this class needs from its deployment."""

    def service(self, name: str) -> Any:
        """A handle to the service called *name*."""


class Point(NamedTuple):
    """Lines that one commit changed in one area; the time is in milliseconds, as the database has it."""

    time: int
    area: str
    lines: int


class History:
    """One run of the example, with a report to read."""

    def __init__(self, ctx: Context, series: str = "series", data: str | None = None) -> None:
        """
        Look up the database.

        Args:
            ctx: The way to it.
            series: The name of its service.
            data: A file such as `update_commits.py` writes; default: the one beside it.
        """
        self._series = ctx.service(series)
        self._data = Path(data) if data else Path(__file__).with_name("commits.csv")

    def process(self) -> str:
        """
        Add every point by a call of its own, ask for the sums of each window, and return the report.

        Raises:
            RuntimeError: The database has lost points, or counts other lines than the file has.
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
        """Add *points*, as many at once as the service runs; they need not arrive in their order."""
        calls = [self._series.submit("add", point.time, point.lines, {"area": point.area}) for point in points]
        for call in calls:
            call.result()
        if (stored := self._series.stats()["db_size"]) != len(calls):
            raise RuntimeError(f"the database has {stored} points, {len(calls)} were added")

    def windows(self, area: str, first: int, last: int) -> dict[int, int]:
        """The start of each window that has changes of *area*, with how many lines they had."""
        found = self._series.window_aggregate(
            first, last, window_size=WINDOW_MS, aggregation="sum", tags={"area": area}
        )
        return {window["timestamp"]: round(window["value"]) for window in found}


def read(path: Path) -> list[Point]:
    """The points of a file, in their order."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        return sorted(Point(int(row["time"]) * 1000, row["area"], int(row["lines"])) for row in rows)


def table(windows: dict[str, dict[int, int]]) -> list[str]:
    """One line for each window that has changes, one column for each area."""
    starts = sorted({start for sums in windows.values() for start in sums})
    head = " " * 16 + "".join(f"{area:>10}" for area in windows)
    return [
        head,
        *(clock(start) + "".join(f"{sums.get(start, 0):>10,}" for sums in windows.values()) for start in starts),
    ]


def clock(milliseconds: int) -> str:
    """Such as 2026-11-23 12:00, in UTC."""
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M}"
