"""Line charts as SVG: which elements are drawn, and where."""

from __future__ import annotations

import re
from html import escape
from math import nan

import pytest

from sage_deploy_testing.load_simulation.results.charts import Chart, Line, picture

HOSTILE = "<img src=x onerror=alert(1)>"


def test_all_names_are_escaped() -> None:
    """Every text in a chart is escaped."""
    lines = [Line(HOSTILE, [(0, 1), (1, 2)])]
    chart = Chart(title=HOSTILE, x=HOSTILE, y=HOSTILE, lines=lines, marks=[(0.5, HOSTILE)], places=[HOSTILE])
    assert "<img" not in chart.svg()
    assert "<img" not in picture([chart])


def test_an_empty_chart_and_gaps_are_drawn() -> None:
    """A line without values is drawn, and a missing value splits a line into two segments."""
    assert "polyline" in Chart(title="", x="", y="", lines=[Line("a", [])], log=True).svg()
    broken = Chart(title="", x="", y="", lines=[Line("a", [(0, 1), (1, nan), (2, 3)])]).svg()
    assert broken.count("<polyline") == 3  # two segments, and the legend


def test_named_places_replace_the_numbers_and_stand_at_equal_distances() -> None:
    """Names on the x axis replace the numbers, at equal distances. A mark outside the range is left out."""
    names = ["1 KiB", "64 KiB", "1 MiB"]
    line = Line("a", [(0, 1), (1, 2), (2, 4)])
    chart = Chart(title="", x="", y="", lines=[line], places=names, marks=[(1, "inside"), (5, "outside")]).svg()
    placed = {name: float(x) for x, name in re.findall(r'<text x="([^"]+)" y="236" [^>]*>([^<]+)<', chart)}
    assert list(placed) == [escape(name) for name in names]
    first, second, third = placed.values()
    assert third - second == pytest.approx(second - first, abs=0.2)
    points = re.findall(r'<polyline class="l0" points="([^"]+)"', chart)[0].split()
    assert [float(point.split(",")[0]) for point in points] == [first, second, third]
    assert "inside" in chart
    assert "outside" not in chart
