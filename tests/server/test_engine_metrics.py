"""Metrics of the engine itself: batches, threads, the event loop and health checks."""

from __future__ import annotations

import threading

import pytest

from sage_plugins import Environment, ServiceDeploymentConfig, batch_of


class Embedder:
    def embed(self, text):
        return self.embed_many([text])[0]

    @batch_of("embed")
    def embed_many(self, texts):
        return [text.upper() for text in texts]


class Checked:
    def check_health(self):
        return True

    def check_ready(self):
        raise LookupError("not yet")

    async def wait(self, until):
        return until.wait(20)


@pytest.fixture
def measured(environments):
    """Deploy a service; return its environment, and a function that returns a metric's values by label values."""

    def deploy(cls, **fields):
        env: Environment = environments()
        env.register_service_with_config("svc", cls, deployment_config=ServiceDeploymentConfig(**fields))
        env.deploy()
        return env, lambda name: dict(env.metrics()["svc"][name].values)

    return deploy


def test_batches_are_told_by_their_size_and_how_long_they_waited(measured):
    """
    The batch metrics have the size of each batch and its wait: two batches of four are two entries in that bucket.
    """
    env, values = measured(Embedder, threading_strategy="pool", batch_size=4, batch_wait=10.0)
    for _ in range(2):
        calls = [env.service("svc").submit("embed", "a") for _ in range(4)]
        assert [call.result(20) for call in calls] == ["A"] * 4
    sizes = values("sage_batch_size")["embed",]
    assert sizes[:5] == (8, 0, 0, 2, 0)
    total, *counts = values("sage_batch_wait_seconds")["embed",]
    assert sum(counts) == 2
    assert 0 < total < 20
    assert "sage_batch_size" not in env.get_service_status("svc")["own_metrics"]


def test_threads_are_busy_or_idle(measured, gate, in_thread):
    """The thread metric counts busy and idle threads. A thread is busy while it runs a call."""

    class Holding:
        def hold(self):
            gate()

    env, values = measured(Holding, threading_strategy="multi", thread_count=3)
    assert values("sage_threads") == {("busy",): 0, ("idle",): 3}
    call = in_thread(env.service("svc").hold)
    gate.wait_entered()
    assert values("sage_threads") == {("busy",): 1, ("idle",): 2}
    gate.open()
    call.result(20)


def test_event_loop_that_is_blocked_lags(measured, until, in_thread):
    """The event loop's lag grows while a coroutine blocks the loop. It is measured per replica."""
    env, values = measured(Checked, threading_strategy="async", monitors=())
    env.metrics()
    until(lambda: "sage_event_loop_lag_seconds" in env.metrics()["svc"])
    goes_on = threading.Event()
    call = in_thread(env.service("svc").wait, goes_on)
    try:
        until(lambda: values("sage_event_loop_lag_seconds")["svc#0",] > 0.05)
    finally:
        goes_on.set()
    call.result(20)
    until(lambda: values("sage_event_loop_lag_seconds")["svc#0",] < 0.05)


def test_checks_are_told_by_what_is_asked(measured, until):
    """The duration of each kind of check is measured, also of checks that fail."""
    _, values = measured(Checked, threading_strategy="single")
    until(lambda: len(values("sage_health_check_duration_seconds")) == 2)
    told = values("sage_health_check_duration_seconds")
    assert told.keys() == {("check_health",), ("check_ready",)}
    assert all(sum(counts) >= 1 for _, *counts in told.values())
