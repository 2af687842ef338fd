"""
Writes metric families as text in the formats of Prometheus and OpenMetrics.

prometheus-client can write both, but needs an object for each sample, which took most of a scrape's time. The tests
read this text with its parsers.
"""

from __future__ import annotations

from itertools import accumulate
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sage_plugins.interfaces.families import Family

__all__ = ["Exposition", "series_of"]

#: Numbers that Prometheus writes differently than Python.
_WRITTEN: Final = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}


def series_of(family: Family) -> int:
    """Return the number of series in a family. A histogram has its buckets, its sum and its count."""
    return len(family.values) * (len(family.edges) + 3 if family.kind == "histogram" else 1)


class _Templates(NamedTuple):
    """
    The lines of one family of one service, with placeholders for the numbers.

    Attributes:
        labels: Names of the labels.
        edges: Edges of the histogram.
        by_values: Maps label values to a text with a placeholder for each number.
    """

    labels: tuple[str, ...]
    edges: tuple[float, ...]
    by_values: dict[tuple[str, ...], str]


class Exposition:
    """Writes metrics as text. Reuses the templates of its previous text. Thread-safe."""

    def __init__(self) -> None:
        self._templates: dict[tuple[str | None, str], _Templates] = {}  # by service and family; replaced, never changed

    def text(self, families: Iterable[tuple[str | None, Family]], *, is_open: bool) -> str:
        """
        Return the metrics as text.

        Args:
            families: Each with its service, or None if it belongs to no service. Families with equal names must be of
                one kind.
            is_open: Whether to write OpenMetrics instead of Prometheus text.
        """
        kept = {}
        found: dict[str, list[str]] = {}
        for service, family in families:
            lines = found.get(family.name)
            if lines is None:
                lines = found[family.name] = [_head(family, is_open=is_open)]
            before = self._templates.get((service, family.name))
            is_same = before is not None and before.labels == family.labels and before.edges == family.edges
            if before is None or not is_same or len(before.by_values) > len(family.values):
                before = _Templates(family.labels, family.edges, {})
            try:
                _write(lines, family, before.by_values)
            except KeyError:  # there are new label values
                by_values = {values: _template(service, family, values) for values in family.values}
                before = _Templates(family.labels, family.edges, by_values)
                _write(lines, family, by_values)
            kept[service, family.name] = before
        self._templates = kept
        ending = "# EOF\n" if is_open else ""
        return "".join(["".join(lines) for lines in found.values()]) + ending


def _write(lines: list[str], family: Family, templates: Mapping[tuple[str, ...], str]) -> None:
    """Add the lines of a family. Adds nothing if a template is missing (KeyError)."""
    if family.kind != "histogram":
        lines += [templates[values] % _number(number) for values, number in family.values.items()]
        return
    found = []
    for values, number in family.values.items():
        *counts, all_of_them = accumulate(number[1:])
        found.append(templates[values] % (*counts, all_of_them, all_of_them, _number(number[0])))
    lines += found


def _template(service: str | None, family: Family, values: tuple[str, ...]) -> str:
    labels = dict(zip(family.labels, values, strict=True))
    if service is not None:
        labels["service"] = service
    if family.kind != "histogram":
        return f"{family.name}{_labels(labels)} %s\n"
    edges = ["+Inf" if edge == inf else str(float(edge)) for edge in (*family.edges, inf)]
    buckets = [f"{family.name}_bucket{_labels(labels | {'le': edge})} %d.0\n" for edge in edges]
    return "".join(buckets) + f"{family.name}_count{_labels(labels)} %d.0\n{family.name}_sum{_labels(labels)} %s\n"


def _head(family: Family, *, is_open: bool) -> str:
    name, text = family.name, family.help.replace("\\", r"\\").replace("\n", r"\n")
    if is_open:
        name, text = name.removesuffix("_total") if family.kind == "counter" else name, text.replace('"', r"\"")
    return f"# HELP {name} {text}\n# TYPE {name} {family.kind}\n"


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    text = ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(labels.items()))
    return "{" + text.replace("%", "%%") + "}"


def _escaped(value: str) -> str:
    value = value.encode("utf-8", "backslashreplace").decode()  # a class may use surrogates, which cannot be sent
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(number: float) -> str:
    text = repr(float(number))
    return _WRITTEN.get(text, text)
