"""
The monitor `health` in virtual time: which replicas it checks when, what answers mean, and who gets calls meanwhile.
"""

from __future__ import annotations

import pytest

from sage_plugins import Environment, ServiceDeploymentConfig
from ward import INTERVAL, Alive, Answers, Async, Both, Patient, Ready

# -- which replicas are checked ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Both, Async])
def test_each_replica_is_asked_at_once_and_then_every_interval(ward, strategy, cls):
    """Each replica is checked at once and then every interval, on its own thread: first health, then readiness."""
    service = ward(cls, replicas=2, strategy=strategy)
    once = [("check_health", 0), ("check_ready", 0), ("check_health", 1), ("check_ready", 1)]
    assert sorted(asked[:2] for asked in service.answers.asked) == sorted(once)
    assert {name for *_, name in service.answers.asked} == {"svc#0-health", "svc#1-health"}
    service.advance(INTERVAL - 0.1)
    assert len(service.answers.asked) == 4
    service.advance(0.1)
    assert len(service.answers.asked) == 8


def test_nothing_is_asked_of_a_class_without_checks(ward):
    """A class without checks needs no timer and no probe."""
    service = ward(Patient)
    assert service.clock.pending == 0
    assert not service.monitor._probes


def test_new_replicas_are_asked_and_those_that_left_are_not(ward):
    """New replicas are checked, and replicas that left are not."""
    service = ward(Alive)
    service.env.scale("svc", 2)
    service.advance(0)
    assert [index for _, index, _ in service.answers.asked] == [0, 1]
    service.env.scale("svc", 1)
    del service.answers.asked[:]
    service.advance(INTERVAL)
    service.advance(INTERVAL)
    assert [index for _, index, _ in service.answers.asked] == [0, 0]
    assert list(service.monitor._probes) == ["svc#0"]


def test_nobody_is_asked_after_the_end(ward):
    """After the service ends nothing is checked."""
    service = ward()
    service.env.close()
    del service.answers.asked[:]
    service.clock.advance(10 * INTERVAL)
    assert service.answers.asked == []
    assert service.clock.pending == 0


def test_without_the_monitor_nobody_is_asked_and_the_plan_says_so(ward):
    """Without the monitor no check is called, and the plan says so."""
    service = ward(monitors=("noted",), failure_threshold=2)
    service.clock.advance(10 * INTERVAL)
    assert service.answers.asked == []
    plan = str(service.env.plan())
    for what in ("its check_health() is not called", "its check_ready() is not called", "failure_threshold: has no"):
        assert what in plan
    assert "add 'health' to monitors" in plan


def test_with_the_monitor_the_plan_says_what_it_does(ward):
    """With the monitor the plan shows interval and timeout, without a warning."""
    plan = str(ward().env.plan())
    assert "every 10 s, for at most 5 s" in plan
    assert "W1" not in plan


# -- liveness ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (False, "check_health() failed: RuntimeError: check_health() of svc#0 returned False"),
        (0, "check_health() failed: RuntimeError: check_health() of svc#0 returned False"),
        (ValueError("no pulse"), "check_health() failed: ValueError: no pulse"),
        (SystemExit(3), "check_health() failed: SystemExit: 3"),
    ],
)
@pytest.mark.parametrize(("cls", "strategy"), [(Alive, "single"), (Async, "single"), (Async, "async")])
def test_replica_is_unhealthy_after_so_many_failures_in_a_row(ward, cls, strategy, answer, why):
    """A replica is unhealthy after `failure_threshold` failures in a row, with the last reason."""
    service = ward(cls, strategy=strategy, failure_threshold=3)
    service.answers["check_health", 0] = answer
    for _ in range(2):
        service.advance(INTERVAL)
        assert service.states == ["ready"]
    service.answers["check_health", 0] = True
    service.advance(INTERVAL)
    service.answers["check_health", 0] = answer
    for _ in range(2):
        service.advance(INTERVAL)
        assert service.states == ["ready"]
    service.advance(INTERVAL)
    assert service.states == ["unhealthy"]
    reason = f"3 health checks in a row failed, the last one because {why}"
    assert service.told[-1] == ("unhealthy", "svc#0", reason)
    status = service.env.get_service_status("svc")
    assert status["health"] == {"healthy": False, "ready": 0, "replicas": 1, "missing": {"svc#0": reason}}
    assert status["replicas"][0]["error"] == reason
    assert service.env.service("svc").index() == 0


def test_unhealthy_replica_is_ready_after_so_many_successes_in_a_row(ward):
    """An unhealthy replica is ready after `success_threshold` passes in a row."""
    service = ward(Alive, failure_threshold=1, success_threshold=2)
    for answer, state in (
        (False, "unhealthy"),
        (True, "unhealthy"),
        (False, "unhealthy"),
        (True, "unhealthy"),
        (True, "ready"),
        (True, "ready"),
    ):
        service.answers["check_health", 0] = answer
        service.advance(INTERVAL)
        assert service.states == [state]
    assert service.told[-1] == ("ready", "svc#0", "2 health checks in a row passed")
    assert [kind for kind, *_ in service.told].count("unhealthy") == 1
    assert service.env.get_service_status("svc")["health"]["healthy"]


def test_unhealthy_replica_gets_no_calls_while_another_serves(ward, strategy):
    """An unhealthy replica gets no calls while another is healthy. If none is, all get calls."""
    service = ward(Alive, replicas=2, strategy=strategy, failure_threshold=1, success_threshold=1)
    assert service.seen() == {0, 1}
    service.answers["check_health", 0] = False
    service.advance(INTERVAL)
    assert service.seen() == {1}
    service.answers["check_health", 1] = False
    service.advance(INTERVAL)
    assert service.states == ["unhealthy", "unhealthy"]
    assert service.seen() == {0, 1}
    service.answers["check_health", 0] = True
    service.advance(INTERVAL)
    assert service.seen() == {0}


# -- readiness ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Ready, Async])
def test_readiness_counts_at_once_and_is_no_illness(ward, cls):
    """Readiness takes effect after one check, whatever the thresholds, and does not mean unhealthy."""
    service = ward(cls, replicas=2, failure_threshold=3, success_threshold=3)
    service.answers["check_ready", 0] = False
    service.advance(INTERVAL)
    assert service.states == ["unready", "ready"]
    assert service.seen() == {1}
    service.answers["check_ready", 0] = True
    service.advance(INTERVAL)
    assert service.states == ["ready", "ready"]
    assert service.seen() == {0, 1}
    assert [each for each in service.told if each[1] == "svc#0"][-2:] == [
        ("unready", "svc#0", "check_ready() failed: RuntimeError: check_ready() of svc#0 returned False"),
        ("ready", "svc#0", "check_ready() passed"),
    ]


def test_unready_from_the_start(ward):
    """A new replica's readiness is checked before the first interval has passed."""
    service = ward(Ready, replicas=2)

    class Warming(Ready):
        def __init__(self, answers):
            super().__init__(answers)
            answers["check_ready", self.ctx.replica_index] = self.ctx.replica_index == 1

    service.env.close()
    service = ward(Warming, replicas=2)
    assert service.states == ["unready", "ready"]
    assert service.seen() == {1}


def test_illness_is_worse_than_not_being_ready(ward):
    """Unhealthy wins over unready. A replica that recovers has the state that its readiness says."""
    service = ward(failure_threshold=1, success_threshold=1)
    for health, ready, state in (
        (False, False, "unhealthy"),
        (True, False, "unready"),
        (False, False, "unhealthy"),
        (False, True, "unhealthy"),
        (True, True, "ready"),
    ):
        service.answers["check_health", 0], service.answers["check_ready", 0] = health, ready
        service.advance(INTERVAL)
        assert service.states == [state]


# -- outside environments ----------------------------------------------------------------------------------------------


def test_status_of_a_service_outside_environments():
    """`health` works for a service outside an environment."""
    env = Environment("outside")
    env.register_service_with_config(
        "svc", Alive, Answers(), deployment_config=ServiceDeploymentConfig(monitors=["health"])
    )
    task = env.task("svc")
    task.start_running()
    assert task.status()["health"]["healthy"]
    task.stop()
    env.close()
