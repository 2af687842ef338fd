"""`ServiceMonitor` shows a service's state from outside and takes readings over time."""

from __future__ import annotations

import threading

import pytest

from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins import ServiceDeploymentConfig, ServiceMetrics, ServiceMonitor


class Echo:
    def echo(self, value):
        return value


@pytest.fixture
def task(environments):
    """Makes the task of a service in virtual time."""

    def make(**config):
        env = environments("monitored", clock=VirtualClock())
        env.register_service_with_config("svc", Echo, deployment_config=ServiceDeploymentConfig(**config))
        env.deploy()
        return env.task("svc")

    return make


def test_it_shows_what_the_service_is_like_now(task):
    """The monitor shows the current metrics, health, configuration and status."""
    task = task()
    monitor = ServiceMonitor(task)
    task.handle.echo(1)
    assert isinstance(monitor.metrics, ServiceMetrics)
    assert monitor.metrics.request_count == 1
    assert monitor.health == {"healthy": True, "ready": 1, "replicas": 1}
    assert monitor.deployment_config is task.composition.config
    assert monitor.get_service_status().keys() == task.status().keys()


def test_it_reads_at_once_and_every_interval(task, until):
    """A started monitor takes a reading at once and then each interval. `stop_monitoring` keeps the readings."""
    task = task(health_check_interval=30.0)
    monitor = ServiceMonitor(task)
    monitor.start_monitoring()
    until(lambda: len(monitor.readings) == 1)
    for count in (2, 3):
        task.handle.echo(1)
        until(lambda: task.clock.pending)
        task.clock.advance(30.0)
        until(lambda count=count: len(monitor.readings) == count)
    assert [reading.at - monitor.readings[0].at for reading in monitor.readings] == [0, 30, 60]
    assert [reading.metrics.request_count for reading in monitor.readings] == [0, 1, 2]
    assert all(reading.health["healthy"] for reading in monitor.readings)
    monitor.stop_monitoring()
    task.clock.advance(300.0)
    assert len(monitor.readings) == 3
    assert task.clock.pending == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "svc-monitor"]


def test_it_keeps_a_bounded_number_of_readings(task, until):
    """The monitor keeps at most `keep` readings."""
    task = task(health_check_interval=1.0, health_check_timeout=1.0)
    monitor = ServiceMonitor(task, keep=2)
    monitor.start_monitoring()
    for _ in range(5):
        until(lambda: task.clock.pending)
        before = monitor.readings[-1].at
        task.clock.advance(1.0)
        until(lambda before=before: monitor.readings[-1].at > before)
    assert len(monitor.readings) == 2
    monitor.stop_monitoring()
    with pytest.raises(ValueError, match="keep must be 1 or more"):
        ServiceMonitor(task, keep=0)


def test_it_is_started_and_stopped_as_often_as_one_likes(task, until):
    """Starting or stopping twice has no further effect, and a stopped monitor can start again."""
    monitor = ServiceMonitor(task())
    monitor.stop_monitoring()
    for readings in (1, 2):
        monitor.start_monitoring()
        monitor.start_monitoring()
        until(lambda readings=readings: len(monitor.readings) == readings)
        monitor.stop_monitoring()
        monitor.stop_monitoring()


def test_without_metrics_there_is_nothing_to_read(task):
    """With `enable_metrics: false` the monitor takes no readings, but still shows the health."""
    monitor = ServiceMonitor(task(enable_metrics=False))
    monitor.start_monitoring()
    assert not [thread for thread in threading.enumerate() if thread.name == "svc-monitor"]
    assert monitor.readings == ()
    assert monitor.health["healthy"]


def test_a_service_that_has_stopped_can_be_looked_at(task):
    """The status of a stopped service can still be read."""
    task = task()
    monitor = ServiceMonitor(task)
    task.stop()
    assert monitor.get_service_status()["state"] == "stopped"
