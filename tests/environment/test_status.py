"""`get_service_status`: the states of a service, and the counts and durations of its calls."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest

from sage_plugins import (
    ServiceDeploymentConfig,
    ServiceMetrics,
    errors,
)

PATIENCE = 20.0
SHORT = 0.03


def test_status_at_a_glance(deploy, strategy):
    """The status has name, state, configuration, metrics, health, replicas, replacements, own metrics and monitors."""
    service = deploy(strategy, replicas=2, load_balancing=True)
    status = service.env.get_service_status("svc")
    assert list(status) == [
        *("service_name", "state", "deployment_config", "metrics"),
        *("health", "replicas", "replaced", "own_metrics", "monitors"),
    ]
    assert (status["service_name"], status["state"]) == ("svc", "ready")
    assert isinstance(status["deployment_config"], ServiceDeploymentConfig)
    assert isinstance(status["metrics"], ServiceMetrics)
    assert status["metrics"].service_name == "svc"
    assert status["health"] == {"healthy": True, "ready": 2, "replicas": 2}
    assert [(each["id"], each["state"], each["inflight"], each["error"]) for each in status["replicas"]] == [
        ("svc#0", "ready", 0, None),
        ("svc#1", "ready", 0, None),
    ]


def test_status_through_the_life_of_a_service(env, probe, gate, in_thread, until):
    """The state is pending before the deployment, then starting, ready, draining and stopped."""

    class Slow(probe):
        def __init__(self):
            gate()

    env.register_service("svc", Slow)
    state = lambda: env.get_service_status("svc")["state"]  # noqa: E731 - one expression
    assert state() == "pending"
    deploying = in_thread(env.deploy)
    gate.wait_entered()
    status = env.get_service_status("svc")
    assert status["state"] == "starting"
    assert status["health"] == {"healthy": False, "ready": 0, "replicas": 1}
    gate.open()
    deploying.result(PATIENCE)
    assert state() == "ready"
    opened = Future()
    entered = Future()
    running = env.service("svc").submit("run", lambda: (entered.set_result(None), opened.result(PATIENCE)))
    entered.result(PATIENCE)
    closing = in_thread(env.close)
    until(lambda: state() != "ready")
    assert state() == "draining"
    opened.set_result(None)
    closing.result(PATIENCE)
    running.result(PATIENCE)
    assert state() == "stopped"


def test_status_counts_what_is_going_on(deploy, threaded, occupy):
    """The status counts running and waiting calls."""
    service = deploy(threaded, queue_size=10)
    occupied = occupy(service)
    calls = [service.handle.submit("echo") for _ in range(4)]
    status = service.env.get_service_status("svc")
    assert status["metrics"].queue_size == 4
    assert status["metrics"].active_threads == service.slots
    (replica,) = status["replicas"]
    assert (replica["inflight"], replica["slots"], replica["threads"]) == (service.slots,) * 3
    occupied.open()
    for call in calls:
        call.result(PATIENCE)
    assert service.waiting == 0


def test_count_read_after_a_result_includes_it(deploy, strategy):
    """A call is counted before its caller gets the result."""
    service = deploy(strategy)
    for number in range(1, 2001):
        service.handle.echo()
        assert service.metrics.request_count == number
    for number in range(2001, 2201):
        service.handle.submit("echo").result(PATIENCE)
        assert service.metrics.request_count == number


@pytest.mark.parametrize("verb", ["call", "acall"])
def test_every_ending_counts_once(deploy, strategy, occupy, queued, verb):
    """Each result, error, timeout and cancelled call counts once, under its own outcome."""
    service = deploy(strategy, queue_size=10)
    handle = service.handle

    def fail():
        raise ValueError("counted")

    def ask(handle, *args):
        return handle.call(*args) if verb == "call" else asyncio.run(handle.acall(*args))

    for _ in range(3):
        ask(handle, "echo")
    for _ in range(2):
        with pytest.raises(ValueError, match="counted"):
            ask(handle, "run", fail)
    occupied = occupy(service)
    with pytest.raises(errors.CallTimeoutError):
        ask(handle.with_options(timeout=SHORT), "echo")
    expected = {"ok": 3, "error": 2, "timeout": 1}
    if strategy != "inline":
        future = handle.submit("echo")
        assert future.cancel()
        assert not handle.submit("echo").cancelled()
        expected |= {"cancelled": 1, "ok": 4 + service.slots}
    else:
        expected |= {"ok": 3 + service.slots}
    occupied.open()
    queued(service, "echo").result(PATIENCE)
    expected["ok"] += 1
    for _ in range(service.slots):
        handle.echo()
        expected["ok"] += 1
    metrics = service.metrics
    if strategy == "pool":  # a pool has two workers, and the calls that held the slots may not have been counted yet
        while sum(service.metrics.outcomes.values()) < sum(expected.values()):
            threading.Event().wait(0.001)
        metrics = service.metrics
    assert dict(metrics.outcomes) == expected
    assert metrics.request_count == sum(expected.values())
    assert metrics.error_count == metrics.request_count - expected["ok"]
    assert metrics.rejected_count == 0


def test_rejected_calls_are_counted_apart(deploy, strategy, occupy):
    """A refused call counts as refused, not as a request."""
    service = deploy(strategy, queue_size=0, overload="reject")
    occupied = occupy(service)
    for _ in range(3):
        with pytest.raises(errors.OverloadedError):
            service.handle.echo()
    metrics = service.metrics
    assert (metrics.request_count, metrics.rejected_count) == (0, 3)
    occupied.open()


def test_unknown_methods_count_nowhere(deploy):
    """Calls of unknown methods are not counted."""
    service = deploy("single")
    with pytest.raises(errors.MethodNotFoundError):
        service.handle.ecco()
    assert (service.metrics.request_count, service.metrics.rejected_count) == (0, 0)


def test_durations_are_measured(deploy, strategy):
    """Mean and percentiles are the seconds from the call to its answer."""
    service = deploy(strategy)
    for _ in range(20):
        service.handle.call("run", threading.Event().wait, 0.005)
    metrics = service.metrics
    assert metrics.avg_response_time >= 0.005
    assert metrics.p99 >= metrics.p95 >= metrics.p50 >= 0.005
    assert 0 <= metrics.avg_queue_time < metrics.avg_response_time


def test_counts_are_exact_under_many_threads(deploy, strategy, in_thread):
    """The counts are exact when many threads call."""
    service = deploy(strategy)
    start = threading.Barrier(8)

    def caller():
        start.wait(PATIENCE)
        for _ in range(100):
            service.handle.echo()

    for each in [in_thread(caller) for _ in range(8)]:
        each.result(PATIENCE)
    assert service.metrics.request_count == 800


def test_without_metrics_nothing_is_counted(deploy, strategy):
    """`enable_metrics: false` and `monitors: []` turn counting off; calls and status still work."""
    service = deploy(strategy, enable_metrics=False)
    service.handle.echo()
    assert service.metrics.request_count == 0
    service = deploy(strategy, monitors=[])
    service.handle.echo()
    assert service.metrics.request_count == 0


def test_threads_that_ended_are_forgotten_by_the_metrics(deploy, in_thread):
    """The metrics keep the counts of threads that have ended, but nothing else of them."""
    service = deploy("inline")
    for _ in range(200):
        in_thread(service.handle.echo).result(PATIENCE)
    assert service.metrics.request_count == 200
    (member,) = service.env.task("svc").replicas.members
    (recorder,) = member.replica._host._recorders.values()
    kept = [value for value in vars(recorder).values() if isinstance(value, (list, set, dict))]
    assert sum(map(len, kept)) < 50
