"""The thresholds of `health` limit how often states change, and a check that hangs delays no other service."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_monitors.health import _Probe
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins import ServiceDeploymentConfig
from sage_plugins.interfaces import ControlOp
from sage_plugins.plugins.registry import Registry
from sage_plugins.service.own_metrics import BUCKETS, Histogram
from sage_plugins.values import ReplicaState

INTERVAL = 10.0


class Marked:
    """A replica that records how it is marked."""

    id = "svc#0"
    slots = inflight = abandoned = 0

    def __init__(self):
        self.marks = []

    def mark(self, state, reason):
        self.marks.append((state, reason))


class Service:
    hooks = frozenset({"check_health", "check_ready"})
    clock = VirtualClock()

    def __init__(self, failures, successes):
        self.config = ServiceDeploymentConfig(failure_threshold=failures, success_threshold=successes)


def judged(answers, failures, successes):
    """Return the marks that these answers to `check_health` lead to (True passes), and the probe."""
    replica = Marked()
    durations = Histogram("seconds", "Time.", ("check",), BUCKETS)
    probe = _Probe(Service(failures, successes), replica, lambda _: False, durations)
    for good in answers:
        probe._judge(ControlOp.CHECK, "" if good else "it is ill")
    return replica.marks, probe


ANSWERS = st.lists(st.booleans(), max_size=60)
THRESHOLDS = st.integers(1, 5)


@settings(deadline=None, derandomize=True, database=None)
@given(answers=ANSWERS, failures=THRESHOLDS, successes=THRESHOLDS)
def test_states_change_no_oftener_than_the_thresholds_allow(answers, failures, successes):
    """States change at most once per min(threshold) checks, exactly as a model that counts rows says."""
    marks, probe = judged(answers, failures, successes)
    assert len(marks) <= len(answers) / min(failures, successes)
    assert [state for state, _ in marks] == [
        ReplicaState.READY if number % 2 else ReplicaState.UNHEALTHY for number in range(len(marks))
    ]
    ill, row, changes = False, 0, 0
    for good in answers:
        row = row + 1 if good is ill else 0
        if row == (successes if ill else failures):
            ill, row, changes = not ill, 0, changes + 1
    assert (bool(probe.unhealthy), len(marks)) == (ill, changes)


@pytest.mark.parametrize("first", [True, False])
def test_health_that_alternates_changes_nothing(first):
    """With three failures and two passes needed, alternating results change nothing."""
    answers = [first is bool(number % 2) for number in range(1000)]
    assert judged(answers, 3, 2)[0] == []


@settings(deadline=None, derandomize=True, database=None)
@given(answers=ANSWERS)
def test_readiness_counts_at_once_but_is_told_once_for_each_change(answers):
    """Readiness takes effect at once, and only changes are reported."""
    replica = Marked()
    probe = _Probe(Service(3, 2), replica, lambda _: False, Histogram("seconds", "Time.", ("check",), BUCKETS))
    for good in answers:
        probe._judge(ControlOp.READY, "" if good else "it waits")
    changes = sum(before is not after for before, after in zip([True, *answers], answers, strict=False))
    assert len(replica.marks) == changes


class Hangs:
    def __init__(self, gate=None):
        self.gate = gate
        self.asked = 0

    def check_health(self):
        self.asked += 1
        if self.gate is not None:
            self.gate()
        return True


def test_check_that_hangs_delays_no_other_service(environments, gate, until):
    """While a check of one service hangs, other services are checked every interval."""
    clock = VirtualClock()
    registry = Registry.of(sage_deploy_local, sage_deploy_monitors, sage_deploy_threading)
    env = environments("test", registry=registry, clock=clock)
    config = ServiceDeploymentConfig(monitors=("health",), health_check_interval=INTERVAL, health_check_timeout=1.0)
    env.register_service_with_config("hanging", Hangs, gate, deployment_config=config)
    env.register_service_with_config("fine", Hangs, deployment_config=config)
    env.deploy()
    clock.advance(0.0)
    gate.wait_entered()
    until(lambda: env.task("fine").get_attribute("asked") == 1)
    for asked in range(2, 7):
        clock.advance(INTERVAL)
        until(lambda: env.task("fine").get_attribute("asked") == asked)  # noqa: B023
    assert env.task("hanging").get_attribute("asked") == 1
    states = {name: env.get_service_status(name)["replicas"][0]["state"] for name in ("hanging", "fine")}
    assert states == {"hanging": "unhealthy", "fine": "ready"}
