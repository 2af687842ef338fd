"""
Metrics that a service's class makes for itself: `ctx.metrics`.

Names and methods are those of prometheus-client, so that a class can move from one to the other.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from sage_plugins.interfaces.families import Families

__all__ = ["BUCKETS", "MOST_METRICS", "MOST_VALUES", "Counter", "Gauge", "Histogram", "OwnMetrics"]

#: Metrics that a replica has, at most.
MOST_METRICS: Final = 100
#: Label values of one metric that a replica tells apart; those beyond count as `other`.
MOST_VALUES: Final = 100
#: Upper edges of a histogram's buckets, if it has none of its own; those of prometheus-client.
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
#: Labels that have a meaning already.
_TAKEN: Final = frozenset({"instance", "job", "le", "replica", "service"})
#: Names that a metric takes up, by what follows its own.
_ENDINGS: Final = {"counter": ("",), "gauge": ("",), "histogram": ("", "_bucket", "_count", "_sum")}

_MetricT = TypeVar("_MetricT", bound="_Metric")


class _Metric:
    """One metric of a replica, or one of its series."""

    kind = ""

    def __init__(self, name: str, help: str, labels: tuple[str, ...], edges: tuple[float, ...]) -> None:  # noqa: A002
        """For `OwnMetrics`."""
        self.name = name
        self.help = help
        self.label_names = labels
        self.edges = edges
        self._lock = threading.RLock()  # re-entrant: a signal handler may count, too
        self._series: dict[tuple[str, ...], Any] = {} if labels else {(): self}
        self._is_series = not labels

    def labels(self, *values: object, **named: object) -> Self:
        """
        The series with these values of the labels; ask once and keep it where every microsecond counts.

        The first 100 sets of values get series of their own, those that come later share the series `other`.

        Args:
            *values: Of all labels, in their order.
            **named: The same by name.

        Raises:
            ValueError: These are not the values of all labels.
        """
        names = self.label_names
        if self._is_series or (values and named) or len(values or named) != len(names) or set(named) - set(names):
            given = ", ".join([*map(repr, values), *(f"{name}={value!r}" for name, value in named.items())])
            msg = f"{self.name} has the labels {names!r}, and got labels({given})"
            raise ValueError(msg)
        key = tuple([str(named[name]) for name in names]) if named else tuple(map(str, values))
        found: Self | None = self._series.get(key)
        if found is not None:
            return found
        with self._lock:
            if key not in self._series and len(self._series) >= MOST_VALUES:
                key = ("other",) * len(names)
            found = self._series.get(key)
            if found is None:
                found = self._series[key] = type(self)(self.name, self.help, (), self.edges)
            return found

    def _check_series(self) -> None:
        if not self._is_series:
            msg = f"{self.name} has the labels {self.label_names!r}: say labels(...) before you count"
            raise ValueError(msg)

    def value(self) -> Any:
        """The number of a series; for `Family.values`."""
        raise NotImplementedError

    def values(self) -> dict[tuple[str, ...], Any]:
        """The numbers of all series by their labels' values."""
        with self._lock:
            series = list(self._series.items())
        return {key: each.value() for key, each in series}


class Counter(_Metric):
    """A number that only grows."""

    kind = "counter"
    _number = 0.0

    def inc(self, amount: float = 1) -> None:
        """
        Add *amount*.

        Raises:
            ValueError: *amount* is negative, or `labels` was not called although there are labels.
        """
        if not self._is_series:
            self._check_series()
        if not amount >= 0:
            msg = f"{self.name} can only grow, and got inc({amount!r}): use a gauge"
            raise ValueError(msg)
        with self._lock:
            self._number += amount

    def value(self) -> float:
        """What was added."""
        return float(self._number)  # whatever was added: it may travel to where only Python's numbers are known


class Gauge(_Metric):
    """A number that rises and falls."""

    kind = "gauge"
    _number = 0.0

    def set(self, number: float) -> None:
        """Have it be *number*."""
        self._check_series()
        self._number = float(number)

    def inc(self, amount: float = 1) -> None:
        """Add *amount*."""
        self._check_series()
        with self._lock:
            self._number += amount

    def dec(self, amount: float = 1) -> None:
        """Take *amount* away."""
        self.inc(-amount)

    def value(self) -> float:
        """What it is now."""
        return float(self._number)


class Histogram(_Metric):
    """Numbers, counted by size."""

    kind = "histogram"

    def __init__(self, name: str, help: str, labels: tuple[str, ...], edges: tuple[float, ...]) -> None:  # noqa: A002
        """For `OwnMetrics`."""
        super().__init__(name, help, labels, edges)
        self._sum = 0.0
        self._counts = [0] * (len(edges) + 1)

    def observe(self, number: float) -> None:
        """Count *number*."""
        if not self._is_series:
            self._check_series()
        at = bisect_left(self.edges, number)
        with self._lock:
            self._sum += number
            self._counts[at] += 1

    def value(self) -> tuple[float, ...]:
        """The sum, then how many are in each bucket."""
        with self._lock:
            return (float(self._sum), *self._counts)


class OwnMetrics:
    """
    The metrics of one replica; `ctx.metrics`. From any thread.

    `/metrics` adds up the counters and histograms of all replicas, those included that have left. A gauge has a series
    for each replica, for as long as that lives. Names that begin with `sage_` are the environment's.

    Asked for again, a metric is the same object. A replica has at most 100 metrics.
    """

    def __init__(self) -> None:
        """Have none yet."""
        self._lock = threading.RLock()
        self._metrics: dict[str, _Metric] = {}
        self._names: dict[str, str] = {}  # that metrics take up, and which

    def counter(self, name: str, help: str = "", labels: Sequence[str] = ()) -> Counter:  # noqa: A002 - as there
        """
        A number that only grows: `counter("hits").inc()`.

        Args:
            name: Its name; what is shown ends in `_total`, which need not be written.
            help: What it counts, in one sentence.
            labels: Names of its labels; their values are given to `labels` of the metric.

        Raises:
            ValueError: Prometheus does not allow a name, or the name is taken by another metric.
        """
        return self._metric(Counter(f"{name.removesuffix('_total')}_total", help, _tuple(labels), ()))

    def gauge(self, name: str, help: str = "", labels: Sequence[str] = ()) -> Gauge:  # noqa: A002 - as there
        """A number that rises and falls: `gauge("open_files").set(3)`. As `counter`."""
        return self._metric(Gauge(name, help, _tuple(labels), ()))

    def histogram(
        self,
        name: str,
        help: str = "",  # noqa: A002 - as there
        labels: Sequence[str] = (),
        buckets: Sequence[float] = BUCKETS,
    ) -> Histogram:
        """
        Numbers, counted by size: `histogram("fetch_seconds").observe(0.2)`. As `counter`.

        Args:
            name: Its name.
            help: What it counts, in one sentence.
            labels: Names of its labels.
            buckets: Upper edges of the buckets, the smallest first.
        """
        edges = tuple([float(edge) for edge in buckets if edge != inf])
        if not edges or list(edges) != sorted(set(edges)):
            msg = f"buckets of {name} must be numbers that rise, got {buckets!r}"
            raise ValueError(msg)
        return self._metric(Histogram(name, help, _tuple(labels), edges))

    def _metric(self, new: _MetricT) -> _MetricT:
        _check(new)
        with self._lock:
            if len(self._metrics) >= MOST_METRICS and new.name not in self._metrics:
                msg = f"{new.name} would be one metric more than the {MOST_METRICS} that a replica can have: use labels"
                raise ValueError(msg)
            return self.add(new)

    def add(self, new: _MetricT) -> _MetricT:
        """*new*, or the same that there is; for the environment's own metrics, whose names are not checked."""
        with self._lock:
            old = self._metrics.get(new.name)
            if old is not None:
                if isinstance(old, type(new)) and (old.label_names, old.edges) == (new.label_names, new.edges):
                    return old
                msg = f"{new.name} is there as {_described(old)}; it cannot be {_described(new)} too"
                raise ValueError(msg)
            names = {f"{new.name}{ending}" for ending in _ENDINGS[new.kind]} | {new.name.removesuffix("_total")}
            taken = next((self._names[name] for name in names if name in self._names), None)
            if taken is not None:
                msg = f"{new.name}, {_described(new)}, and {taken} would have series of one name: rename one of them"
                raise ValueError(msg)
            self._names.update(dict.fromkeys(names, new.name))
            self._metrics[new.name] = new
            return new

    def families(self) -> Families:
        """The numbers of this moment."""
        if not self._metrics:
            return {}
        from sage_plugins.interfaces.families import Family  # most processes are never asked

        with self._lock:
            metrics = list(self._metrics.values())
        return {
            each.name: Family(each.name, each.kind, each.help, each.label_names, each.values(), each.edges)
            for each in metrics
        }


def _tuple(labels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(labels, str):
        msg = f"labels must be a list of names, got {labels!r}: write ({labels!r},)"
        raise ValueError(msg)  # noqa: TRY004 - as for what else is wrong with a metric
    return tuple(labels)


def _check(metric: _Metric) -> None:
    name, labels = metric.name, metric.label_names
    if not _NAME.fullmatch(name):
        msg = f"{name!r} is no name for a metric: use letters, digits and underscores, such as 'cache_hits_total'"
        raise ValueError(msg)
    if name.startswith("sage_"):
        msg = f"{name!r}: names that begin with 'sage_' are the environment's own; leave that out"
        raise ValueError(msg)
    if metric.kind != "counter" and name.endswith("_total"):
        msg = f"{name!r}: only a counter ends in '_total', and this is {_described(metric)}"
        raise ValueError(msg)
    for label in labels:
        if not _LABEL.fullmatch(label) or label in _TAKEN:
            why = "has a meaning already" if label in _TAKEN else "is no name for a label"
            msg = f"{name}: {label!r} {why}; use letters, digits and underscores, such as 'kind'"
            raise ValueError(msg)
    if len(set(labels)) < len(labels):
        msg = f"{name} has a label twice: {labels!r}"
        raise ValueError(msg)


def _described(metric: _Metric) -> str:
    labels = f" with the labels {', '.join(metric.label_names)}" if metric.label_names else ""
    return f"a {metric.kind}{labels}"
