"""`GET /metrics`: the status of all services as Prometheus reads it, made when it is scraped."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from itertools import accumulate
from math import inf
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

from sage_plugins.metrics import HISTOGRAM_EDGES_S
from sage_plugins.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.core import Metric
    from starlette.requests import Request

    from sage_plugins.interfaces.operations import Operations

__all__ = ["MAX_SERIES", "Metrics"]

#: Series that one answer has, at most. Services beyond that are added up as the service `other`.
MAX_SERIES: Final = 10_000

#: The service that stands for all that have no series of their own.
_OTHER: Final = "other"
#: Series that are kept free for it: it has one method, and every outcome, reason, state and kind of event.
_OF_OTHER: Final = 100


def _text(edge: float) -> str:
    return "+Inf" if edge == inf else str(edge)


_EDGES: Final = tuple(_text(edge) for edge in (*HISTOGRAM_EDGES_S, inf))
#: Series of a histogram: its buckets, its sum and its count.
_OF_HISTOGRAM: Final = len(_EDGES) + 2
_REASONS: Final = ("overloaded", "stopped")


def _of_replicas(key: str) -> Callable[[Mapping[str, Any]], int]:
    return lambda said: sum(replica[key] for replica in said["replicas"])


#: Help text of a gauge, and how its value is read from the status of a service that has been composed.
_GAUGES: Final[dict[str, tuple[str, Callable[[Mapping[str, Any]], float]]]] = {
    "sage_requests_in_flight": ("Calls that hold a slot.", _of_replicas("inflight")),
    "sage_slots": ("Calls that the replicas run at once, at most.", _of_replicas("slots")),
    "sage_queue_depth": ("Calls that wait for a slot.", lambda said: said["metrics"]["queue_size"]),
    "sage_queue_capacity": ("Calls that may wait for a slot.", lambda said: said["deployment_config"]["queue_size"]),
    "sage_abandoned_calls": (
        "Calls that hold a slot although their caller has given up.",
        lambda said: said["metrics"]["abandoned_count"],
    ),
    "sage_threads": ("Threads of the replicas.", lambda said: said["metrics"]["active_threads"]),
    "sage_desired_replicas": (
        "Replicas that the service is to have; those that are leaving do not count.",
        lambda said: said["health"]["replicas"],
    ),
}

#: As `_GAUGES`, of whole processes. Services share processes, so these are never added up.
_PROCESS_GAUGES: Final[dict[str, tuple[str, Callable[[Mapping[str, Any]], float]]]] = {
    "sage_process_resident_memory_bytes": (
        "Memory of the processes that hold the service's replicas.",
        lambda said: said["metrics"]["memory_usage"],
    ),
    "sage_process_cpu_cores": (
        "Processor cores that these processes keep busy.",
        lambda said: said["metrics"]["cpu_usage"] / 100,
    ),
}


class Metrics:
    """Answers scrapes; nothing is computed between them."""

    def __init__(self, operations: Operations) -> None:
        """Tell of the services of *operations*."""
        self._operations = operations

    async def answer(self, request: Request) -> Response:
        """The metrics, in the format that the client prefers among those of Prometheus and OpenMetrics."""
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        text = await asyncio.to_thread(lambda: encode(self._registry()))  # a status may wait for other processes
        return Response(text, headers={"Cache-Control": "no-store", "Content-Type": media_type})

    def _registry(self) -> CollectorRegistry:
        """One with the metrics of this moment."""
        registry = CollectorRegistry()
        registry.register(_Snapshot(self._operations.status()))
        return registry


class _Histogram:
    """Calls by bucket, and their seconds."""

    def __init__(self) -> None:
        self.counts = [0] * len(_EDGES)
        self.sum_s = 0.0

    def add(self, said: Mapping[str, Any]) -> None:
        """Add one of `MethodMetrics.histograms`."""
        for upper, number in said["buckets"].items():
            self.counts[_EDGES.index(_text(float(upper)))] += number
        self.sum_s += said["sum"]

    def buckets(self) -> list[tuple[str, float]]:
        """Calls up to each edge."""
        return list(zip(_EDGES, accumulate(self.counts), strict=True))


class _Numbers:
    """What is told of one service, or of several together."""

    def __init__(self) -> None:
        self.ready = 0
        self.gauges: defaultdict[str, float] = defaultdict(float)  # by name; empty if no service was composed
        self.requests: Counter[tuple[str, str]] = Counter()  # by method and outcome
        self.rejected: Counter[str] = Counter()  # by reason
        self.replicas: Counter[str] = Counter()  # by state
        self.events: Counter[str] = Counter()  # by kind
        self.restarts = 0
        self.durations: dict[str, _Histogram] = {}  # by method
        self.waits = _Histogram()

    def add(self, said: Mapping[str, Any], method: str | None = None) -> None:
        """Add the status of a service; with *method*, all its methods count as that one."""
        self.ready += said["state"] == "ready"
        if "metrics" not in said:  # it cannot be composed, or is another process's
            return
        for name, (_, read) in _GAUGES.items():
            self.gauges[name] += read(said)
        self.restarts += said["replaced"]
        self.replicas["ready"] += 0  # told even if there is none, so that an alert can compare it
        self.replicas.update(replica["state"] for replica in said["replicas"])
        self.events.update(said["monitors"].get("events", {}).get("counts", {}))
        metrics = said["metrics"]
        self.rejected.update(dict.fromkeys(_REASONS, 0) | metrics["rejections"])
        if metrics["histograms"]:
            self.waits.add(metrics["histograms"]["queue"])
        for name, measured in metrics["methods"].items():
            if measured["request_count"]:
                self._add_method(method or name, measured)

    def _add_method(self, method: str, measured: Mapping[str, Any]) -> None:
        for outcome in Outcome.NAMES:
            self.requests[method, outcome] += measured["outcomes"].get(outcome, 0)
        if measured["histograms"]:
            self.durations.setdefault(method, _Histogram()).add(measured["histograms"]["duration"])

    @property
    def series(self) -> int:
        """How many series that is, at most."""
        plain = (self.gauges, self.requests, self.rejected, self.replicas, self.events, _PROCESS_GAUGES)
        return 2 + sum(len(each) for each in plain) + _OF_HISTOGRAM * (1 + len(self.durations))


class _Snapshot:
    """A collector of what one status says."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        self._environment: str = status["environment"]
        self._services: dict[str, _Numbers] = {}
        self._processes: list[tuple[str, Mapping[str, Any]]] = []
        other = _Numbers()
        left = MAX_SERIES - _OF_OTHER
        for name, said in status["services"].items():
            numbers = _Numbers()
            numbers.add(said)
            if numbers.series > left or name == _OTHER:
                other.add(said, _OTHER)
                self._services[_OTHER] = other
                continue
            left -= numbers.series
            self._services[name] = numbers
            if said.get("metrics", {}).get("memory_usage"):
                self._processes.append((name, said))

    def collect(self) -> Iterator[Metric]:
        """Every metric."""
        environment = GaugeMetricFamily("sage_environment_info", "Always 1.", labels=["environment"])
        environment.add_metric([self._environment], 1)
        yield environment
        yield from self._gauges()
        yield from self._counters()
        yield from self._histograms()

    def _gauges(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily(
            "sage_service_ready", "1 if the service is ready; of `other`: how many are.", labels=["service"]
        )
        for service, numbers in self._services.items():
            ready.add_metric([service], numbers.ready)
        yield ready
        for name, (text, _) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=["service"])
            for service, numbers in self._services.items():
                if name in numbers.gauges:
                    gauge.add_metric([service], numbers.gauges[name])
            yield gauge
        for name, (text, read) in _PROCESS_GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=["service"])
            for service, said in self._processes:
                gauge.add_metric([service], read(said))
            yield gauge
        replicas = GaugeMetricFamily("sage_replicas", "Replicas by state.", labels=["service", "state"])
        for service, numbers in self._services.items():
            for state, number in numbers.replicas.items():
                replicas.add_metric([service, state], number)
        yield replicas

    def _counters(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "sage_requests", "Accepted calls that have ended.", labels=["service", "method", "outcome"]
        )
        rejected = CounterMetricFamily("sage_rejected", "Calls that were not accepted.", labels=["service", "reason"])
        events = CounterMetricFamily("sage_events", "Events, such as replica_failed.", labels=["service", "kind"])
        restarts = CounterMetricFamily(
            "sage_replica_restarts",
            "Replicas that were started in the place of one that had ended or was unhealthy.",
            labels=["service"],
        )
        for service, numbers in self._services.items():
            for (method, outcome), number in numbers.requests.items():
                requests.add_metric([service, method, outcome], number)
            for reason, number in numbers.rejected.items():
                rejected.add_metric([service, reason], number)
            for kind, number in numbers.events.items():
                events.add_metric([service, kind], number)
            if numbers.gauges:
                restarts.add_metric([service], numbers.restarts)
        return iter((requests, rejected, events, restarts))

    def _histograms(self) -> Iterator[Metric]:
        durations = HistogramMetricFamily(
            "sage_request_duration_seconds", "Time from call to answer.", labels=["service", "method"]
        )
        waits = HistogramMetricFamily("sage_queue_wait_seconds", "Time that calls waited.", labels=["service"])
        for service, numbers in self._services.items():
            for method, histogram in numbers.durations.items():
                durations.add_metric([service, method], histogram.buckets(), histogram.sum_s)
            if numbers.durations:
                waits.add_metric([service], numbers.waits.buckets(), numbers.waits.sum_s)
        return iter((durations, waits))
