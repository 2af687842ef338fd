"""The text of /metrics has the numbers of the status, is valid for Prometheus, and stays bounded."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from prometheus_client.openmetrics import parser as open_parser
from prometheus_client.parser import text_string_to_metric_families

from http_get import TOKEN, get
from sage_deploy_server import serve
from sage_deploy_server.description import metrics
from sage_plugins import Environment, ServiceDeploymentConfig, errors
from sage_plugins.interfaces import Family
from sage_plugins.values import Outcome


class Desk:
    def add(self, a, b):
        return a + b

    def fail(self):
        raise LookupError("no such thing")


class Operations:
    """An environment of which only the metrics are known."""

    name = "e"

    def __init__(self, services):
        self._services = services

    def metrics(self):
        return self._services


def text_of(operations):
    return metrics.Metrics(operations).text()


def samples_of(text, parse=text_string_to_metric_families):
    """Return the values by name and labels. Prometheus refuses duplicate samples, so they fail here."""
    found = {}
    for family in parse(text):
        for sample in family.samples:
            key = sample.name, *sorted(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def value(samples, name, **labels):
    return samples[(name, *sorted(labels.items()))]


@pytest.fixture
def env():
    with Environment("shown") as env:
        config = ServiceDeploymentConfig(
            threading_strategy="pool", thread_count=2, replicas=2, queue_size=7, overload="reject"
        )
        env.register_service_with_config("desk", Desk, deployment_config=config)
        env.deploy()
        yield env


@pytest.fixture
def said(env):
    """The metrics of a service that was called."""
    desk = env.service("desk")
    for number in range(5):
        desk.add(number, 1)
    for _ in range(2):
        with pytest.raises(LookupError):
            desk.fail()
    return env.metrics()["desk"]


def with_methods(said, names):
    """Return *said* for a service with the methods *names*, each called as often as `add`."""

    def named(family):
        values = {(name, *key[1:]): value for key, value in family.values.items() if key[0] == "add" for name in names}
        return family._replace(values=values)

    return {name: named(family) if "method" in family.labels else family for name, family in said.items()}


def test_every_number_is_that_of_the_status(env, said):
    """Every metric has the number that the status has."""
    samples = samples_of(text_of(env))
    measured = env.status()["services"]["desk"]["metrics"]
    for name, method in measured["methods"].items():
        labels = {"service": "desk", "method": name}
        told = {outcome: value(samples, "sage_requests_total", **labels, outcome=outcome) for outcome in Outcome.NAMES}
        assert +Counter(told) == Counter(method["outcomes"])
        number = method["request_count"]
        assert value(samples, "sage_request_duration_seconds_count", **labels) == number > 0
        total = value(samples, "sage_request_duration_seconds_sum", **labels)
        assert total == pytest.approx(method["avg_response_time"] * number, abs=1e-6)
    assert value(samples, "sage_queue_wait_seconds_count", service="desk") == measured["request_count"] == 7
    for name, expected in {
        "sage_service_ready": 1,
        "sage_requests_in_flight": 0,
        "sage_slots": 4,
        "sage_queue_depth": 0,
        "sage_queue_capacity": 7,
        "sage_abandoned_calls": 0,
        "sage_desired_replicas": 2,
    }.items():
        assert value(samples, name, service="desk") == expected
    assert value(samples, "sage_threads", service="desk", state="idle") == 4
    assert value(samples, "sage_replica_restarts_total", service="desk", reason="died") == 0
    assert value(samples, "sage_replicas", service="desk", state="ready") == 2
    assert value(samples, "sage_events_total", service="desk", kind="replica_ready") == 2
    assert value(samples, "sage_environment_info", environment="shown") == 1
    assert value(samples, "sage_process_resident_memory_bytes", service="desk") > 1e6


def test_buckets_count_up_to_the_number_of_calls(env, said):
    """The buckets of a histogram are cumulative; the last one has all calls."""
    samples = samples_of(text_of(env))
    buckets = [
        number
        for key, number in samples.items()
        if key[0] == "sage_request_duration_seconds_bucket" and ("method", "add") in key
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 5


def test_refused_calls_are_told_by_reason(env, said):
    """Refused calls are counted by reason."""
    desk = env.service("desk")
    env.close()
    with pytest.raises(errors.ServiceStoppedError):
        desk.add(1, 2)
    samples = samples_of(text_of(env))
    assert value(samples, "sage_rejected_total", service="desk", reason="stopped") == 1
    assert value(samples, "sage_rejected_total", service="desk", reason="overloaded") == 0


def test_counts_of_replicas_that_left_stay(env, said):
    """No counter falls when a replica is replaced or removed."""
    before = samples_of(text_of(env))
    env.restart("desk")
    env.scale("desk", 1)
    after = samples_of(text_of(env))
    assert value(after, "sage_desired_replicas", service="desk") == 1
    endings = ("_total", "_bucket", "_count", "_sum")
    counters = [key for key in before if key[0].endswith(endings) and "replica" not in dict(key[1:])]
    assert counters
    assert [key for key in counters if after[key] < before[key]] == []


class Counting:
    def __init__(self, ctx):
        self.calls = ctx.metrics.counter("calls", labels=("kind",))

    def add(self, a, b):
        self.calls.labels(kind="sum").inc()
        return a + b


def growing(samples):
    endings = ("_total", "_bucket", "_count", "_sum")
    return {key: n for key, n in samples.items() if key[0].endswith(endings) and "replica" not in dict(key[1:])}


def test_no_counter_falls_when_a_service_is_replaced(env):
    """
    Counters never fall when `apply`, another class, or drain and deploy replace a service, not even during a scrape.
    """
    env.register_service("counting", Counting)
    env.deploy()
    told = metrics.Metrics(env)
    number, over, fallen = 0, threading.Event(), []

    def scrape():
        last = {}
        while not over.is_set():
            now = growing(samples_of(told.text()))
            fallen.extend(key for key, value in last.items() if now.get(key, 0) < value)
            last |= now

    def call():
        nonlocal number
        env.service("counting").add(1, 2)
        number += 1
        samples = samples_of(told.text())
        assert value(samples, "sage_requests_total", service="counting", method="add", outcome="ok") == number
        assert value(samples, "sage_queue_wait_seconds_count", service="counting") == number
        assert value(samples, "calls_total", service="counting", kind="sum") == number

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        call()
        for turn in range(3):
            config = ServiceDeploymentConfig(replicas=turn + 1, load_balancing=turn > 0, queue_size=7 + turn)
            env.register_service_with_config("counting", Counting, deployment_config=config)
            env.apply()
            call()
        env.drain("counting")
        env.deploy()
        call()
        env.drain("counting")
        env.register_service("counting", Counting)
        env.apply()
        call()
    finally:
        over.set()
        thread.join()
    assert fallen == []


def test_counts_of_replaced_services_need_bounded_memory(env):
    """However often a service is replaced between scrapes, its old counts take bounded memory, and no count is lost."""
    for _ in range(12):
        env.register_service("counting", Counting)
        env.deploy()
        env.service("counting").add(1, 2)
        env.drain("counting")
    assert len(env._services._former["counting"]) <= 4
    assert value(samples_of(text_of(env)), "calls_total", service="counting", kind="sum") == 12


def test_service_that_cannot_be_composed_is_shown_as_not_ready(env):
    """A service with an invalid configuration is exported as not ready, with no other metric."""
    env.register_service_with_config("bad", Desk, deployment_config=ServiceDeploymentConfig(target="nowhere"))
    samples = samples_of(text_of(env))
    assert value(samples, "sage_service_ready", service="bad") == 0
    assert value(samples, "sage_service_ready", service="desk") == 1
    assert [key for key in samples if ("service", "bad") in key] == [("sage_service_ready", ("service", "bad"))]


def test_replicas_that_are_ready_are_told_even_if_there_are_none(env, said):
    """The number of ready replicas is exported even if it is 0."""
    assert value(samples_of(text_of(env)), "sage_replicas", service="desk", state="ready") == 2
    env.close()
    samples = samples_of(text_of(env))
    assert value(samples, "sage_replicas", service="desk", state="ready") == 0
    assert value(samples, "sage_replicas", service="desk", state="stopped") == 2


def test_service_without_metrics_has_the_rest(env):
    """A service with `enable_metrics: false` has its states exported, but no calls."""
    config = ServiceDeploymentConfig(enable_metrics=False, monitors=())
    env.register_service_with_config("plain", Desk, deployment_config=config)
    env.deploy()
    env.service("plain").add(1, 2)
    samples = samples_of(text_of(env))
    assert value(samples, "sage_replicas", service="plain", state="ready") == 1
    assert not [key for key in samples if key[0] == "sage_requests_total" and ("service", "plain") in key]


HOSTILE = '%s %d a"b\\c\nsage_service_ready{service="forged"} 1\n# x'


def test_no_name_can_forge_a_line(said):
    """Service and method names are escaped, so no name can add a line."""
    samples = samples_of(text_of(Operations({HOSTILE: with_methods(said, [HOSTILE])})))
    assert value(samples, "sage_service_ready", service=HOSTILE) == 1
    assert value(samples, "sage_requests_total", service=HOSTILE, method=HOSTILE, outcome="ok") == 5
    assert {dict(key[1:]).get("service") for key in samples} == {HOSTILE, None}


@pytest.mark.parametrize("most", [250, 400, 1000])
def test_services_beyond_the_limit_are_added_up(said, monkeypatch, most):
    """
    Services beyond the series limit are added up as `other`: no call is lost, the first services keep their series.
    """
    monkeypatch.setattr(metrics, "MAX_SERIES", most)
    services = {f"s{number}": said for number in range(40)}
    samples = samples_of(text_of(Operations(services)))
    assert len(samples) <= most
    ok = [number for key, number in samples.items() if key[0] == "sage_requests_total" and ("outcome", "ok") in key]
    assert sum(ok) == 40 * 5
    assert value(samples, "sage_requests_total", service="other", method="other", outcome="error") >= 2
    own = [service for key in samples if key[0] == "sage_slots" and (service := key[1][1]) != "other"]
    assert own == list(services)[: len(own)]
    assert value(samples, "sage_service_ready", service="other") == 40 - len(own)


def test_service_that_is_too_large_leaves_the_others_their_series(said, monkeypatch):
    """A service with too many series is added to `other`, and smaller ones keep their own."""
    monkeypatch.setattr(metrics, "MAX_SERIES", 400)
    large = with_methods(said, [f"m{number}" for number in range(30)])
    samples = samples_of(text_of(Operations({"large": large, "small": said})))
    assert value(samples, "sage_requests_total", service="other", method="other", outcome="ok") == 30 * 5
    assert value(samples, "sage_requests_total", service="small", method="add", outcome="ok") == 5


def test_service_that_is_called_other_shares_the_series_of_the_rest(said, monkeypatch):
    """The calls of a service that is named `other` are in the same series as the rest."""
    monkeypatch.setattr(metrics, "MAX_SERIES", 250)
    samples = samples_of(text_of(Operations({"other": said, **{f"s{number}": said for number in range(9)}})))
    ok = [number for key, number in samples.items() if key[0] == "sage_requests_total" and ("outcome", "ok") in key]
    assert sum(ok) == 10 * 5


@pytest.mark.parametrize(
    ("accept", "kind"),
    [("*/*", "text/plain; version="), ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text")],
)
def test_who_may_look_gets_the_format_that_it_asks_for(env, accept, kind):
    """With the read token, /metrics answers in the format that the client asks for."""
    with serve(env, "127.0.0.1:0", token=TOKEN, read_token="r" * 64) as server:
        status, text, headers = get(server, "/metrics", token="r" * 64, Accept=accept)
        assert (status, headers["Content-Type"].startswith(kind)) == (200, True)
        assert 'sage_service_ready{service="desk"} 1.0' in text
        assert get(server, "/metrics", token="x" * 64)[0] == 401


def test_two_hundred_services_are_told_quickly(said):
    """A scrape of 200 services is fast. The goal is 50 ms on a quiet machine; the limit here allows for a slow one."""
    import time

    told = metrics.Metrics(Operations({f"s{number}": said for number in range(200)}))
    told.text()
    started = time.thread_time()
    text = told.text()
    assert time.thread_time() - started < 0.5
    assert text.count("\nsage_slots{") > 100


def test_both_formats_tell_the_same(env, said):
    """Both formats have the same values. OpenMetrics is checked with its own strict parser."""
    told = metrics.Metrics(env)
    plain = samples_of(told.text())
    opened = samples_of(told.text(is_open=True), open_parser.text_string_to_metric_families)
    changing = {key for key in plain if key[0].startswith("sage_process_")}
    assert plain.keys() == opened.keys()
    assert {key: plain[key] for key in plain.keys() - changing} == {
        key: opened[key] for key in opened.keys() - changing
    }


def test_next_text_has_the_new_numbers(env, said):
    """The exporter reuses the lines of the last scrape with new numbers; newly called methods get new lines."""
    told = metrics.Metrics(env)
    told.text()
    env.service("desk").add(1, 1)
    samples = samples_of(told.text())
    assert value(samples, "sage_requests_total", service="desk", method="add", outcome="ok") == 6
    assert value(samples, "sage_request_duration_seconds_count", service="desk", method="add") == 6


def test_a_metric_that_cannot_be_told_is_counted(said):
    """If two services use a name for different kinds of metric, one is left out and counted; the text stays valid."""
    counter = Family("hits_total", "counter", "Hits.", (), {(): 3})
    gauge = Family("hits_total", "gauge", "Hits.", (), {(): 4})
    services = {"one": said | {"hits_total": counter}, "two": said | {"hits_total": gauge}}
    samples = samples_of(text_of(Operations(services)))
    assert value(samples, "hits_total", service="one") == 3
    assert value(samples, "sage_series_left_out") == 1
    assert ("hits_total", ("service", "two")) not in samples
