"""Metrics that a service's class makes itself."""

from __future__ import annotations

import pickle
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sage_deploy_server.description.metrics import Metrics
from sage_plugins import Environment, ServiceContext
from sage_plugins.compat import BaseService
from sage_plugins.service.own_metrics import MOST_METRICS, MOST_VALUES, OwnMetrics


class Cache:
    def __init__(self, ctx):
        self.found = ctx.metrics.counter("cache_lookups_total", "Lookups.", labels=("hit",))
        self.size = ctx.metrics.gauge("cache_entries", "Entries.")
        self.seconds = ctx.metrics.histogram("fetch_seconds", "Fetches.", buckets=(0.1, 1))

    def look(self, hit):
        self.found.labels(hit=hit).inc()
        self.size.inc(2)
        self.seconds.observe(0.5)


@pytest.fixture
def own():
    return OwnMetrics()


def values(own, name):
    return own.families()[name].values


def test_metrics_of_a_class_are_shown_with_the_service():
    """`/metrics` and the status show a class's own metrics; a gauge has the replica as label."""
    with Environment("shown") as env:
        env.register_service("cache", Cache)
        for hit in ("yes", "yes", 'no"\n\udcff'):
            env.service("cache").look(hit)
        text = Metrics(env).text()
        status = env.status()["services"]["cache"]["own_metrics"]
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    text.encode()
    assert samples["cache_lookups_total", ("hit", "yes"), ("service", "cache")] == 2
    assert samples["cache_entries", ("replica", "cache#0"), ("service", "cache")] == 6
    assert samples["fetch_seconds_bucket", ("le", "0.1"), ("service", "cache")] == 0
    assert samples["fetch_seconds_bucket", ("le", "1.0"), ("service", "cache")] == 3
    assert samples["fetch_seconds_sum", ("service", "cache")] == 1.5
    assert status["cache_entries"] == [{"replica": "cache#0", "value": 6}]
    assert {"hit": "yes", "value": 2} in status["cache_lookups_total"]


def test_no_count_of_many_threads_is_lost(own):
    """No count is lost when several threads count at once."""
    counter, sizes, gauge = own.counter("hits"), own.histogram("sizes", buckets=(1,)), own.gauge("level")
    start = threading.Barrier(4)

    def count():
        start.wait()
        for _ in range(5_000):
            counter.inc(2)
            sizes.observe(3)
            gauge.inc()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values(own, "hits_total") == {(): 40_000}
    assert values(own, "sizes") == {(): (60_000, 0, 20_000)}
    assert values(own, "level") == {(): 20_000}


def test_the_same_metric_is_there_once(own):
    """Asking for a metric again, with or without `_total`, returns the same one. Labels go by name or by position."""
    counter = own.counter("hits", "Hits.", ["kind"])
    assert own.counter("hits_total", labels=("kind",)) is counter
    assert counter.labels("a") is counter.labels(kind="a")


def test_values_of_labels_are_bounded(own):
    """Beyond 100 label values the others count together, as "other"."""
    counter = own.counter("hits", labels=("user", "kind"))
    for number in range(MOST_VALUES + 50):
        counter.labels(number, "a").inc()
    counter.labels(3, "a").inc()
    found = values(own, "hits_total")
    assert len(found) == MOST_VALUES + 1
    assert found["other", "other"] == 50
    assert found["3", "a"] == 2


def test_number_of_metrics_is_bounded(own):
    """More than 100 metrics are refused."""
    for number in range(MOST_METRICS):
        own.gauge(f"level_{number}")
    with pytest.raises(ValueError, match="one metric more than the 100"):
        own.gauge("another")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda own: own.counter("my hits"), "'my hits_total' is no name for a metric"),
        (lambda own: own.counter("sage_hits"), "are the environment's own"),
        (lambda own: own.gauge("hits_total"), "only a counter ends in '_total'"),
        (lambda own: own.counter("hits", labels=("service",)), "'service' has a meaning already"),
        (lambda own: own.counter("hits", labels=("__x",)), "'__x' is no name for a label"),
        (lambda own: own.counter("hits", labels=("a", "a")), "has a label twice"),
        (lambda own: own.counter("hits", labels="kind"), "must be a list of names"),
        (lambda own: own.gauge("taken"), "taken is there as a histogram; it cannot be a gauge too"),
        (lambda own: own.histogram("taken", buckets=(7,)), "taken is there as a histogram"),
        (lambda own: own.gauge("taken_count"), "and taken would have series of one name"),
        (lambda own: own.histogram("sizes", buckets=(2, 1)), "must be numbers that rise"),
        (lambda own: own.counter("down").inc(-1), "can only grow"),
        (lambda own: own.counter("down").inc(float("nan")), "can only grow"),
        (lambda own: own.counter("kinds", labels=("kind",)).inc(), r"say labels\(...\) before you count"),
        (lambda own: own.gauge("kinds", labels=("kind",)).set(1), r"say labels\(...\) before you count"),
        (lambda own: own.histogram("kinds", labels=("kind",)).observe(1), r"say labels\(...\) before you count"),
        (lambda own: own.counter("kinds", labels=("kind",)).labels(), r"got labels\(\)"),
        (lambda own: own.counter("kinds", labels=("kind",)).labels(sort=1), r"got labels\(sort=1\)"),
        (lambda own: own.counter("plain").labels("a"), "got labels\\('a'\\)"),
    ],
)
def test_what_is_wrong_with_a_metric_is_said(own, make, message):
    """The error says what is wrong with a metric; other metrics are unaffected."""
    own.histogram("taken", buckets=(1,)).observe(1)
    with pytest.raises(ValueError, match=message):
        make(own)
    assert values(own, "taken") == {(): (1, 1, 0)}


def test_numbers_of_other_types_travel_as_floats(own):
    """Numbers of other types are converted to floats: another process may not know their type."""

    class Odd(float):
        def __radd__(self, other):
            return Odd(float(other) + float(self))

    own.counter("hits").inc(Odd(2))
    own.gauge("level").inc(Odd(2))
    own.histogram("sizes").observe(Odd(2))
    families = pickle.loads(pickle.dumps(own.families()))  # noqa: S301 - made here
    assert [type(families[name].values[()]) for name in ("hits_total", "level")] == [float, float]
    assert type(families["sizes"].values[()][0]) is float


def test_a_class_counts_outside_of_an_environment_too():
    """Metrics work outside an environment: in unit tests, and under SAGE, whose contexts have no metrics."""

    class Base(BaseService):
        def work(self):
            self.metrics.counter("works").inc()
            return self.metrics.families()["works_total"].values

    class Own(BaseService):
        def __init__(self):
            self.metrics = {"mine": 1}

    service = Base()
    service.work()
    assert service.work() == {(): 2}
    foreign = Base()
    foreign.ctx = object()
    assert foreign.work() == {(): 1}
    assert Own().metrics == {"mine": 1}
    cache = Cache(ServiceContext("cache", 0, dict))
    cache.look("yes")
    assert cache.found.labels("yes").value() == 1
