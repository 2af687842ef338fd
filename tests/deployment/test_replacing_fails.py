"""What a service does while a dead replica cannot be replaced: no place, calls that wait, crash loops."""

from __future__ import annotations

import pytest

from mortal_target import BALANCED
from sage_plugins import errors
from sage_plugins.resilience.restarts import MOST_STARTS

# -- no place ----------------------------------------------------------------------------------------------------------


def test_service_goes_on_without_a_replica_that_cannot_be_placed(stage):
    """A service goes on without a replica that cannot be placed, says why, and tries again until there is room."""
    stage = stage(replicas=2, **BALANCED)
    stage.target.refused = "no node has room"
    stage.kill("svc#0")
    stage.until(lambda: "replacement_refused" in stage.kinds)
    assert [stage.handle.index() for _ in range(3)] == [1, 1, 1]
    status = stage.status
    (dead, _) = status["replicas"]
    assert (dead["id"], dead["state"]) == ("svc#0", "failed")
    assert "no node has room\n  node-1: is gone" in dead["error"]
    assert "svc#0 was killed" in dead["error"]
    assert status["state"] == "degraded"
    health = status["health"]
    assert (health["healthy"], health["ready"], health["replicas"]) == (False, 1, 2)
    assert "no node has room" in health["missing"]["svc#0"]
    for _ in range(10):
        before = stage.kinds.count("replacement_refused")
        stage.pass_wait()
        stage.until(lambda before=before: stage.kinds.count("replacement_refused") > before)
    assert stage.target.started == ["svc#0", "svc#1"]
    stage.target.refused = None
    stage.pass_wait()
    stage.ready("svc#0.1", "svc#1")
    assert "missing" not in stage.status["health"]


def test_target_that_fails_is_asked_again(stage):
    """If the target fails to place or to start a replica, it is asked again."""
    stage = stage()

    def fail():
        raise ConnectionError("no head node")

    stage.target.on_place = fail
    stage.kill("svc#0")
    stage.until(lambda: "replacement_refused" in stage.kinds)
    assert "failed to place it: ConnectionError: no head node" in stage.reason("replacement_refused")
    stage.target.on_place = lambda: None
    stage.pass_wait()
    stage.ready("svc#0.1")
    start, stage.target.start = stage.target.start, lambda *_: fail()
    stage.kill("svc#0.1")
    stage.pass_wait()
    stage.until(lambda: stage.ids == {"svc#0.2": "failed"})
    assert "no head node" in stage.status["replicas"][0]["error"]
    stage.target.start = start
    stage.pass_wait()
    stage.ready("svc#0.3")


# -- calls meanwhile ---------------------------------------------------------------------------------------------------


def test_calls_wait_for_a_replica_that_is_coming(stage):
    """Calls made while no replica is alive wait for the replacement and start in order."""
    stage = stage()
    stage.target.refused = "no node has room"
    stage.kill("svc#0")
    seen = []
    calls = [stage.handle.submit("run", seen.append, number) for number in range(5)]
    assert stage.status["metrics"].queue_size == 5
    stage.until(lambda: "replacement_refused" in stage.kinds)
    stage.target.refused = None
    stage.pass_wait()
    for call in calls:
        call.result(20)
    assert seen == list(range(5))


def test_calls_that_wait_for_a_replica_end_at_their_deadlines(stage):
    """Calls that wait for a replica end at their deadlines."""
    stage = stage(timeout=5.0)
    stage.target.refused = "no node has room"
    stage.kill("svc#0")
    call = stage.handle.submit("index")
    stage.clock.advance(5.0)
    with pytest.raises(errors.CallTimeoutError) as caught:
        call.result(20)
    assert caught.value.stage == "queue"


# -- the crash loop ----------------------------------------------------------------------------------------------------


def test_crash_loop_of_the_only_replica_refuses_calls_and_ends_those_that_wait(stage):
    """
    If the only replica is in a crash loop, waiting and new calls end with NoReplicaError.

    `restart` ends the crash loop.
    """
    stage = stage(timeout=None)
    waiting = []

    def fail(_index):
        waiting.append(stage.handle.submit("index")) if not waiting else None
        raise LookupError("no database")

    stage.service.build = staticmethod(fail)
    stage.kill("svc#0")
    for _ in range(MOST_STARTS - 1):
        stage.pass_wait()
    with pytest.raises(errors.NoReplicaError, match=r"svc#0\.5 is in a crash loop.*no database.*restart\('svc'\)"):
        waiting[0].result(20)
    with pytest.raises(errors.NoReplicaError):
        stage.handle.index()
    status = stage.status
    assert status["state"] == "crash_loop"
    assert "test_replacing_fails.py" in status["replicas"][0]["error"]
    assert "LookupError: no database" in status["health"]["missing"]["svc#0.5"]
    stage.until(lambda: "crash_loop" in stage.kinds)
    assert "no database" in stage.reason("crash_loop")
    assert stage.clock.pending == 0
    stage.heal()
    stage.env.restart("svc")
    assert stage.handle.index() == 0
    assert stage.status["state"] == "ready"
    stage.kill(next(iter(stage.ids)))
    stage.until(lambda: list(stage.ids.values()) == ["ready"])


def test_crash_loop_of_one_replica_leaves_the_others_alone(stage):
    """A crash loop of one replica leaves the others alone, and scaling down removes that replica."""
    stage = stage(replicas=2, **BALANCED)
    stage.loop("svc#0")
    assert [stage.handle.index() for _ in range(3)] == [1, 1, 1]
    status = stage.status
    assert status["state"] == "crash_loop"
    assert stage.ids == {"svc#0.5": "crash_loop", "svc#1": "ready"}
    assert status["health"]["ready"] == 1
    stage.env.scale("svc", 1)
    assert stage.ids == {"svc#1": "ready"}
    assert stage.status["state"] == "ready"


def test_restart_that_fails_leaves_the_crash_loop_as_it_is(stage):
    """A restart that fails leaves the crash loop as it is, and waiting calls end."""
    stage = stage(timeout=None)
    stage.loop()
    restarts = {("died",): 1, ("start_failed",): MOST_STARTS - 1}
    assert stage.counted("sage_replica_restarts_total") == restarts
    with pytest.raises(errors.DeployError, match="no database"):
        stage.env.restart("svc")
    assert stage.ids == {"svc#0.5": "crash_loop"}
    with pytest.raises(errors.NoReplicaError):
        stage.handle.index()
    assert stage.clock.pending == 0


def test_replica_that_waits_for_its_start_gives_hope_beside_a_crash_loop(stage):
    """If one replica is in a crash loop, calls still wait while another one can start."""
    stage = stage(replicas=2, **BALANCED)
    stage.loop("svc#0")
    stage.target.refused = "no node has room"
    stage.heal()
    stage.kill("svc#1")
    stage.until(lambda: "replacement_refused" in stage.kinds)
    call = stage.handle.submit("index")
    stage.target.refused = None
    stage.pass_wait()
    assert call.result(20) == 1
