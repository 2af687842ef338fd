"""
A replica that dies, or takes too long to start, is replaced. Standby replicas take over at once.

In virtual time, on replicas in this process that a test can kill. tests/testing/test_supervision_cases.py shows what
happens to calls that run when a replica's process really dies.
"""

from __future__ import annotations

import threading

import pytest

from mortal_target import BALANCED, STARTUP_S, Service
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins import errors
from sage_plugins.resilience.restarts import STEADY_S
from sage_plugins.values import ReplicaState

# -- the new replica ---------------------------------------------------------------------------------------------------


def test_replica_that_dies_is_replaced_at_once(stage):
    """A replica that died is replaced at its index. Its counts stay in the metrics, and its target stops it."""
    stage = stage(replicas=2, **BALANCED)
    for _ in range(4):
        stage.handle.index()
    stage.kill("svc#1")
    stage.ready("svc#0", "svc#1.1")
    assert sorted(stage.handle.index() for _ in range(4)) == [0, 0, 1, 1]
    assert stage.status["metrics"].request_count == 8
    stage.until(lambda: "svc#1" in stage.target.stopped)
    assert stage.clock.pending == 0


def test_replica_has_failed_before_its_callers_are_told(stage):
    """A replica has failed before the callers of its lost calls learn of it."""
    stage = stage()
    runs, goes_on = threading.Event(), threading.Event()
    call = stage.handle.submit("run", lambda: (runs.set(), goes_on.wait()))
    runs.wait()
    told = []
    stage.listen = lambda event: told.append((event.kind, call.done()))
    stage.kill("svc#0", call)
    goes_on.set()
    assert ("replica_failed", False) in told
    assert isinstance(call.exception(), errors.ReplicaDiedError)


def test_nothing_of_the_supervision_is_left_when_there_is_nothing_to_do(stage):
    """When there is nothing to supervise, there is no thread and no timer."""
    stage = stage()
    stage.kill("svc#0")
    stage.ready("svc#0.1")
    stage.until(lambda: not [each for each in threading.enumerate() if each.name == "svc-supervisor"])
    assert stage.clock.pending == 0


def test_the_more_replicas_die_the_longer_it_takes(stage):
    """Repeated deaths delay the replacement, until a replica has been ready long enough."""
    stage = stage()
    stage.kill("svc#0")
    stage.ready("svc#0.1")
    stage.kill("svc#0.1")
    stage.until(lambda: "replacement_delayed" in stage.kinds)
    assert stage.ids == {"svc#0.1": "failed"}
    assert stage.target.started == ["svc#0", "svc#0.1"]
    stage.pass_wait()
    stage.ready("svc#0.2")
    stage.clock.advance(STEADY_S + 1)  # the sum of fractions may be slightly too small
    stage.kill("svc#0.2")
    stage.ready("svc#0.3")
    assert stage.status["replaced"] == 3
    assert stage.counted("sage_replica_restarts_total") == {("died",): 3}


def test_second_report_of_an_end_changes_nothing(stage):
    """If a target reports the end of a replica twice, the second report changes nothing."""
    stage = stage()
    _, events = stage.target.living["svc#0"]
    stage.kill("svc#0")
    events.lost((), (), ConnectionError("again"))
    events.changed(ReplicaState.READY)
    stage.ready("svc#0.1")
    assert stage.target.started == ["svc#0", "svc#0.1"]
    assert stage.kinds.count("replica_failed") == 1


def test_start_that_takes_too_long_has_failed(stage, gate):
    """A replica that is not ready after `startup_timeout` has failed. It is stopped, and the next one starts."""
    stage = stage()
    stage.service.build = staticmethod(lambda _index: gate())
    stage.kill("svc#0")
    gate.wait_entered()
    stage.heal()
    stage.clock.advance(STARTUP_S)
    stage.until(lambda: stage.ids == {"svc#0.1": "failed"})
    assert "Raise `startup_timeout`" in stage.status["replicas"][0]["error"]
    stage.until(lambda: "svc#0.1" in stage.target.stopped)
    stage.pass_wait()
    stage.ready("svc#0.2")
    gate.open()


def test_who_waits_until_a_service_is_healthy_waits_for_replacements(stage, gate):
    """`wait_healthy` waits for the replacement of a dead replica, and names it if it is not ready in time."""
    stage = stage()
    stage.service.build = staticmethod(lambda _index: gate())
    stage.kill("svc#0")
    gate.wait_entered()
    with pytest.raises(errors.DeployError, match=r"not ready after 0 s: svc#0\.1 is starting$"):
        stage.task.wait_healthy(0)
    gate.open()
    stage.task.wait_healthy()
    assert stage.ids == {"svc#0.1": "ready"}


def test_replica_that_waits_for_something_says_so_when_it_is_late(stage, gate):
    """
    A late replica's error says what it waits for, if its target knows.

    If the target fails to answer, the error says so.
    """
    stage = stage("reports_progress")
    stage.service.build = staticmethod(lambda _index: gate())
    stage.target.progress = lambda id: f"{id} waits for a GPU"
    stage.kill("svc#0")
    gate.wait_entered()
    stage.clock.advance(STARTUP_S)
    stage.until(lambda: stage.ids == {"svc#0.1": "failed"})
    assert stage.reason("replica_failed").endswith("svc#0.1 not ready after 1000 s; svc#0.1 waits for a GPU")
    stage.target.progress = lambda _id: {}["a fault"]
    stage.pass_wait()
    gate.wait_entered()
    stage.clock.advance(STARTUP_S)
    stage.until(lambda: stage.ids == {"svc#0.2": "failed"})
    assert stage.reason("replica_failed").endswith("its progress is unknown: KeyError: 'a fault'")
    gate.open()


def test_only_targets_that_declare_it_are_asked_what_a_late_replica_waits_for(stage, gate):
    """Only targets that declare `reports_progress` are asked what a late replica waits for."""
    stage = stage()
    stage.service.build = staticmethod(lambda _index: gate())
    stage.target.progress = lambda id: f"{id} waits for a GPU"
    stage.kill("svc#0")
    gate.wait_entered()
    stage.clock.advance(STARTUP_S)
    stage.until(lambda: stage.ids == {"svc#0.1": "failed"})
    assert "GPU" not in stage.reason("replica_failed")
    gate.open()


def test_deployment_says_of_each_late_replica_what_it_waits_for(stage, gate):
    """
    The error of a deployment says what each late replica waits for, and names those with the same reason together.
    """
    # The thread waits `startup_timeout` in real time before it checks the virtual clock, so it is short.
    stage = stage("reports_progress", startup_timeout=0.03)
    stage.service.build = staticmethod(lambda _index: gate())
    stage.target.progress = lambda id: "" if id == "svc#2" else "it waits for a GPU"
    scaling = stage.in_thread(stage.env.scale, "svc", 4)
    gate.wait_entered(3)
    stage.clock.advance(1)
    with pytest.raises(errors.DeployError) as caught:
        scaling.result(20)
    assert str(caught.value) == (
        "service 'svc': svc#1, svc#3 not ready after 0.03 s; it waits for a GPU. svc#2 not ready after 0.03 s; the "
        "constructor or a start hook still runs. Raise `startup_timeout` (in an update `update.progress_deadline`) if "
        "it needs that long"
    )
    gate.open()


def test_deployment_that_fails_is_not_tried_again(environments):
    """A deployment that fails is not repeated: supervision begins once the service is ready."""
    built = []

    class Broken(Service):
        def __init__(self):
            built.append(self)
            raise LookupError("no database")

    clock = VirtualClock()
    env = environments("broken", clock=clock)
    env.register_service("broken", Broken)
    with pytest.raises(errors.DeployError, match="no database"):
        env.deploy()
    assert len(built) == 1
    assert clock.pending == 0


# -- standby -----------------------------------------------------------------------------------------------------------


def test_standby_takes_over_and_keeps_the_calls(stage):
    """Without balancing the standby takes over, and the replacement becomes the standby: calls do not move back."""
    stage = stage(replicas=2, load_balancing=False, failover_enabled=True)
    assert stage.handle.index() == 0
    stage.kill("svc#0")
    assert stage.handle.index() == 1
    stage.ready("svc#0.1", "svc#1")
    assert [stage.handle.index() for _ in range(3)] == [1, 1, 1]
    stage.kill("svc#1")
    assert stage.handle.index() == 0
    stage.ready("svc#0.1", "svc#1.1")
    assert [stage.handle.index() for _ in range(3)] == [0, 0, 0]


def test_restart_makes_the_first_replica_the_primary_again(stage):
    """`restart` makes the first replica the primary again."""
    stage = stage(replicas=2, load_balancing=False, failover_enabled=True)
    stage.kill("svc#0")
    stage.ready("svc#0.1", "svc#1")
    stage.env.restart("svc")
    assert stage.handle.index() == 0
