"""Line charts as SVG, for pages and for files, in light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, isfinite, log10
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["STYLE", "Chart", "Line", "picture"]

#: The style of charts. As in the dashboard, print and most eyes can tell the lines apart.
STYLE: Final = """\
svg.chart{--ink:#1a1a1a;--faint:#d4d4d4;--c0:#0b62a4;--c1:#c2410c;--c2:#15803d;--c3:#7e22ce;--c4:#a16207;
max-width:100%;height:auto;font:12px system-ui,sans-serif}
@media (prefers-color-scheme:dark){svg.chart{--ink:#e8e8e8;--faint:#474747;--c0:#7cc0f5;--c1:#fb923c;--c2:#6ee7a0;
--c3:#d8b4fe;--c4:#fcd34d}}
.chart text{fill:var(--ink)}.chart .title{font-weight:600;font-size:13px}.chart .grid{stroke:var(--faint)}
.chart .mark{stroke:var(--ink);stroke-dasharray:2 3;opacity:.6}.chart polyline{fill:none;stroke-width:1.8}
.chart .l0{stroke:var(--c0)}.chart .l1{stroke:var(--c1);stroke-dasharray:7 3}
.chart .l2{stroke:var(--c2);stroke-dasharray:2 2}.chart .l3{stroke:var(--c3);stroke-dasharray:9 3 2 3}
.chart .l4{stroke:var(--c4);stroke-dasharray:5 2}
"""

#: The background of a picture, because the page around it may have another colour.
_BACK: Final = ".back{fill:#fff}@media (prefers-color-scheme:dark){.back{fill:#161616}}"

_WIDTH, _HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 44, 40
_ROW = 15  # of the legend
_MARGIN = 0.3  # before the first and after the last named place
_STYLES: Final = 5


@attrs.frozen
class Line:
    """
    One line of a chart.

    Attributes:
        name: Its name in the legend.
        points: x and y. A y that is nan or inf, or not above 0 on a logarithmic axis, breaks the line.
    """

    name: str
    points: Sequence[tuple[float, float]]


@attrs.frozen(kw_only=True)
class Chart:
    """
    A chart.

    Attributes:
        title: The title above it.
        x: What the horizontal axis shows, with its unit.
        y: What the vertical axis shows, with its unit.
        lines: The lines. At most five look different.
        log: Whether the vertical axis is logarithmic.
        marks: Vertical lines: x, and what is there.
        places: Names for x = 0, 1, 2 and so on. With them, the horizontal axis has no numbers.
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log: bool = False
    marks: Sequence[tuple[float, str]] = ()
    places: Sequence[str] = ()

    def svg(self, *, left: float = 0, top: float = 0) -> str:
        """Return the chart as an `svg` element, at this position in an outer one."""
        points = [point for line in self.lines for point in line.points if self._is_drawn(point[1])]
        if self.places:
            x_axis = [(float(x), name) for x, name in enumerate(self.places)]
            low, high = -_MARGIN, len(self.places) - 1 + _MARGIN
        else:
            x_axis = [(x, f"{x:g}") for x in _axis([x for x, _ in points] or [0.0, 1.0])]
            low, high = x_axis[0][0], x_axis[-1][0]
        ys = [y for _, y in points] or [1.0]
        y_axis = _log_axis(ys) if self.log else _axis([0.0, *ys])
        legend, rows = self._legend()
        upper = _TOP + _ROW * (rows - 1)
        place = f' x="{left:g}" y="{top:g}"' if left or top else ""
        parts = [
            (
                f'<svg class="chart" role="img" aria-label="{escape(self.title)}"{place} width="{_WIDTH}" '
                f'height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" xmlns="http://www.w3.org/2000/svg">'
            ),
            f'<text class="title" x="{_LEFT}" y="16">{escape(self.title)}</text>',
        ]

        def across(x: float) -> float:
            return _LEFT + (x - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

        def up(y: float) -> float:
            least, most, at = y_axis[0], y_axis[-1], y
            if self.log:
                least, most, at = log10(least), log10(most), log10(y)
            return _HEIGHT - _BOTTOM - (at - least) / (most - least) * (_HEIGHT - upper - _BOTTOM)

        bottom = _HEIGHT - _BOTTOM
        for y in y_axis:
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
        parts += [
            f'<text x="{across(x):.1f}" y="{bottom + 16}" text-anchor="middle">{escape(name)}</text>'
            for x, name in x_axis
        ]
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(self.x)}</text>')
        parts.append(
            f'<text transform="translate(13 {(upper + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y)}</text>"
        )
        for x, what in self.marks:
            if low <= x <= high:
                parts.append(
                    f'<line class="mark" x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{upper}" y2="{bottom}">'
                    f"<title>{escape(what)}</title></line>"
                )
        for number, line in enumerate(self.lines):
            parts += self._drawn(line, number % _STYLES, across, up)
        return "".join([*parts, legend, "</svg>"])

    def _is_drawn(self, y: float) -> bool:
        return isfinite(y) and (y > 0 or not self.log)

    def _drawn(self, line: Line, style: int, across: object, up: object) -> Iterable[str]:
        stretch: list[str] = []
        assert callable(across)
        assert callable(up)
        for x, y in [*line.points, (0.0, float("nan"))]:
            if self._is_drawn(y):
                stretch.append(f"{across(x):.1f},{up(y):.1f}")
                continue
            if stretch:
                yield f'<polyline class="l{style}" points="{" ".join(stretch)}"/>'
                stretch = []

    def _legend(self) -> tuple[str, int]:
        """Return the legend, and the number of its rows."""
        parts, left, row = [], _LEFT, 0
        for number, line in enumerate(self.lines):
            width = 44 + 7 * len(line.name)
            if left > _LEFT and left + width > _WIDTH:
                left, row = _LEFT, row + 1
            y = 31 + row * _ROW
            parts.append(f'<polyline class="l{number % _STYLES}" points="{left},{y} {left + 26},{y}"/>')
            parts.append(f'<text x="{left + 31}" y="{y + 4}">{escape(line.name)}</text>')
            left += width
        return "".join(parts), row + 1


def picture(charts: Sequence[Chart], columns: int = 2) -> str:
    """Return charts in rows of *columns*, as the text of an SVG file. The same charts give the same text."""
    rows = ceil(len(charts) / columns)
    inner = "".join(
        chart.svg(left=index % columns * _WIDTH, top=index // columns * _HEIGHT) for index, chart in enumerate(charts)
    )
    width, height = columns * _WIDTH, rows * _HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f'<style>{STYLE}{_BACK}</style><rect class="back" width="100%" height="100%"/>{inner}</svg>\n'
    )


def _axis(values: Sequence[float]) -> list[float]:
    """Return round numbers that enclose *values*."""
    low, high = min(values), max(values)
    if high <= low:
        high = low + (abs(low) or 1.0)
    step = 10.0 ** floor(log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (step * factor) <= 6)  # noqa: PLR2004 - ticks
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _log_axis(values: Sequence[float]) -> list[float]:
    """Return powers of ten that enclose *values*. If they are few, add 2 and 5 times each."""
    first, last = floor(log10(min(values))), ceil(log10(max(values)))
    last = max(last, first + 1)
    ticks = [factor * 10.0**power for power in range(first, last) for factor in (1, 2, 5)]
    ticks = [*ticks, 10.0**last]
    return [float(f"{tick:.6g}") for tick in ticks] if last - first <= 2 else [10.0**p for p in range(first, last + 1)]  # noqa: PLR2004
