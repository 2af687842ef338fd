"""An unhealthy replica is replaced, first by starting its heir where there is room for two."""

from __future__ import annotations

import threading

from sage_plugins.resilience.restarts import MOST_STARTS
from sage_plugins.values import ReplicaState


def mark(stage, state=ReplicaState.UNHEALTHY, reason="it hangs"):
    (member,) = stage.task.replicas.places
    member.mark(state, reason)


def test_unhealthy_replica_is_left_alone_where_what_hangs_would_go_on(stage):
    """An unhealthy replica is replaced only if its target declares `replaces_unhealthy`."""
    stage = stage()
    mark(stage)
    assert stage.ids == {"svc#0": "unhealthy"}
    assert stage.task._supervisor._restarts is None


def test_unhealthy_replica_is_replaced_by_one_that_is_started_first(stage, gate):
    """An unhealthy replica is replaced once its successor is ready, and gets `drain_timeout` to finish its calls."""
    stage = stage("replaces_unhealthy", threading_strategy="pool", thread_pool_size=2)
    running = stage.handle.submit("run", gate)
    gate.wait_entered()
    mark(stage)
    stage.until(lambda: stage.ids == {"svc#0": "draining", "svc#0.1": "ready"})
    assert stage.handle.index() == 0
    gate.open()
    running.result(20)
    stage.ready("svc#0.1")
    assert stage.reason("replica_draining") == "replaced by svc#0.1"
    assert stage.counted("sage_replica_restarts_total") == {("unhealthy",): 1}


def test_unhealthy_replica_that_is_well_in_time_stays(stage):
    """An unhealthy replica that recovers before its delayed replacement starts is kept."""
    stage = stage("replaces_unhealthy")
    mark(stage)
    stage.ready("svc#0.1")
    mark(stage)
    stage.until(lambda: "replacement_delayed" in stage.kinds)
    mark(stage, ReplicaState.READY, "")
    stage.pass_wait()
    stage.until(lambda: not [each for each in threading.enumerate() if each.name.startswith("svc-")])
    assert stage.ids == {"svc#0.1": "ready"}


def test_unhealthy_replica_goes_first_where_there_is_no_room_for_two(stage, gate):
    """Without room for two, the unhealthy replica stops first. It gets `drain_timeout` for its running calls."""
    stage = stage("replaces_unhealthy")
    stage.target.refused = "the one GPU is taken"
    running = stage.handle.submit("run", gate)
    gate.wait_entered()
    mark(stage)
    stage.until(lambda: not stage.task._router.lanes)
    assert (stage.ids, stage.target.stopped) == ({"svc#0": "unhealthy"}, [])
    gate.open()
    running.result(20)
    stage.until(lambda: "svc#0" in stage.target.stopped and "failed" in stage.ids.values())
    assert "there is no room for a second one: the one GPU is taken" in stage.status["replicas"][0]["error"]
    stage.target.refused = None
    stage.pass_wait()
    stage.ready("svc#0.1")
    assert stage.counted("sage_replica_restarts_total") == {("unhealthy",): 1}


def test_unhealthy_replica_stays_while_its_heirs_fail(stage):
    """If all replacements fail, up to a crash loop, the unhealthy replica stays, since it may still answer."""
    stage = stage("replaces_unhealthy")

    def fail(_index):
        raise LookupError("no database")

    stage.service.build = staticmethod(fail)
    mark(stage)
    for number in range(1, MOST_STARTS):
        stage.until(lambda number=number: stage.kinds.count("replacement_failed") == number and stage.clock.pending)
        assert "no database" in stage.status["replicas"][0]["error"]
        stage.pass_wait()
    stage.until(lambda: "crash_loop" in stage.kinds)
    stage.until(lambda: stage.ids == {"svc#0": "unhealthy"})
    assert stage.handle.index() == 0
    assert stage.clock.pending == 0


def test_unhealthy_replica_that_dies_while_its_heir_starts_is_replaced_by_that(stage, gate):
    """If an unhealthy replica dies while its successor starts, that successor replaces it."""
    stage = stage("replaces_unhealthy")
    stage.service.build = staticmethod(lambda _index: gate())
    mark(stage)
    gate.wait_entered()
    stage.kill("svc#0")
    call = stage.handle.submit("index")
    gate.open()
    assert call.result(20) == 0
    stage.ready("svc#0.1")
    assert stage.target.started == ["svc#0", "svc#0.1"]


def test_restart_while_an_heir_starts_leaves_one_replica(stage, gate, in_thread):
    """If `restart` comes while a successor starts, one replica is left."""
    stage = stage("replaces_unhealthy")
    stage.service.build = staticmethod(lambda _index: gate())
    mark(stage)
    gate.wait_entered()
    restarting = in_thread(stage.env.restart, "svc")
    gate.wait_entered()
    gate.open()
    restarting.result(20)
    stage.until(lambda: list(stage.ids.values()) == ["ready"])
    assert stage.handle.index() == 0
    assert set(stage.target.started) == {"svc#0", "svc#0.1", "svc#0.2"}
