"""
The metrics that a service's class defines itself: `ctx.metrics`.

Class and method names are the same as in prometheus-client, so that code can move from one to the other.
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

#: Maximum number of metrics of a replica.
MOST_METRICS: Final = 100
#: Maximum number of series of one metric in a replica. More label values count as `other`.
MOST_VALUES: Final = 100
#: Default upper edges of a histogram's buckets; the same as in prometheus-client.
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
#: Labels that Prometheus or this project already use.
_TAKEN: Final = frozenset({"instance", "job", "le", "replica", "service"})
#: Suffixes of the series names that a metric of each kind uses.
_ENDINGS: Final = {"counter": ("",), "gauge": ("",), "histogram": ("", "_bucket", "_count", "_sum")}

_MetricT = TypeVar("_MetricT", bound="_Metric")


class _Metric:
    """One metric of a replica, or one of its series."""

    kind = ""

    def __init__(self, name: str, help: str, labels: tuple[str, ...], edges: tuple[float, ...]) -> None:  # noqa: A002
        """Only for `OwnMetrics`."""
        self.name = name
        self.help = help
        self.label_names = labels
        self.edges = edges
        self._lock = threading.RLock()  # re-entrant, because a signal handler may count too
        self._series: dict[tuple[str, ...], Any] = {} if labels else {(): self}
        self._is_series = not labels

    def labels(self, *values: object, **named: object) -> Self:
        """
        Return the series for these label values. Keep the result where every microsecond counts.

        The first 100 sets of values have their own series; later ones share the series `other`.

        Args:
            *values: Values of all labels, in order.
            **named: Values of all labels, by name.

        Raises:
            ValueError: A label has no value, or a value belongs to no label.
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
        raise NotImplementedError

    def values(self) -> dict[tuple[str, ...], Any]:
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
            ValueError: *amount* is negative, or the metric has labels and `labels` was not called.
        """
        if not self._is_series:
            self._check_series()
        if not amount >= 0:
            msg = f"{self.name} can only grow, and got inc({amount!r}): use a gauge"
            raise ValueError(msg)
        with self._lock:
            self._number += amount

    def value(self) -> float:
        """Return the sum of what was added."""
        return float(self._number)  # a plain float, because other processes may not have the type that was added


class Gauge(_Metric):
    """A number that rises and falls."""

    kind = "gauge"
    _number = 0.0

    def set(self, number: float) -> None:
        """Set the value to *number*."""
        self._check_series()
        self._number = float(number)

    def inc(self, amount: float = 1) -> None:
        """Add *amount*."""
        self._check_series()
        with self._lock:
            self._number += amount

    def dec(self, amount: float = 1) -> None:
        """Subtract *amount*."""
        self.inc(-amount)

    def value(self) -> float:
        """Return the present value."""
        return float(self._number)


class Histogram(_Metric):
    """Counts numbers by size, in buckets."""

    kind = "histogram"

    def __init__(self, name: str, help: str, labels: tuple[str, ...], edges: tuple[float, ...]) -> None:  # noqa: A002
        """Only for `OwnMetrics`."""
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
        """Return the sum, then the count of each bucket."""
        with self._lock:
            return (float(self._sum), *self._counts)


class OwnMetrics:
    """
    One replica's metrics: `ctx.metrics`. Thread-safe, as are the metrics.

    `/metrics` adds up the counters and histograms of all replicas, including those that have left. A gauge has one
    series for each living replica. Names that begin with `sage_` are reserved.

    Asking for a metric again returns the same object. A replica has at most 100.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._metrics: dict[str, _Metric] = {}
        self._names: dict[str, str] = {}  # each series name in use, and its metric

    def counter(self, name: str, help: str = "", labels: Sequence[str] = ()) -> Counter:  # noqa: A002 - as there
        """
        Return a number that only grows: `counter("hits").inc()`.

        Args:
            name: The metric's name. `_total` is added if missing.
            help: What it counts, in one sentence.
            labels: Names of its labels. Give their values to the metric's method `labels`.

        Raises:
            ValueError: Prometheus does not allow a name, the name is reserved or taken by another metric, or the
                replica has 100 metrics.
        """
        return self._metric(Counter(f"{name.removesuffix('_total')}_total", help, _tuple(labels), ()))

    def gauge(self, name: str, help: str = "", labels: Sequence[str] = ()) -> Gauge:  # noqa: A002 - as there
        """Return a number that rises and falls: `gauge("open_files").set(3)`. Arguments and errors as `counter`."""
        return self._metric(Gauge(name, help, _tuple(labels), ()))

    def histogram(
        self,
        name: str,
        help: str = "",  # noqa: A002 - as there
        labels: Sequence[str] = (),
        buckets: Sequence[float] = BUCKETS,
    ) -> Histogram:
        """
        Return a metric that counts numbers by size: `histogram("fetch_seconds").observe(0.2)`.

        Args:
            name: The metric's name.
            help: What it measures, in one sentence.
            labels: Names of its labels.
            buckets: Upper edges of the buckets, the smallest first.

        Raises:
            ValueError: As `counter`; or *buckets* does not rise.
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
        """Add *new* and return it, or the same metric if there is one. Does not check names; for `sage_` metrics."""
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
        """Return the present values of all metrics."""
        if not self._metrics:
            return {}
        from sage_plugins.interfaces.families import Family  # most processes never need it

        with self._lock:
            metrics = list(self._metrics.values())
        return {
            each.name: Family(each.name, each.kind, each.help, each.label_names, each.values(), each.edges)
            for each in metrics
        }


def _tuple(labels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(labels, str):
        msg = f"labels must be a list of names, got {labels!r}: write ({labels!r},)"
        raise ValueError(msg)  # noqa: TRY004 - the same type as all other errors of a metric
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
