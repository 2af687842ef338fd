"""Scaling, restarting, draining and closing work while replicas are replaced."""

from __future__ import annotations

import threading

import pytest

from mortal_target import BALANCED
from sage_plugins import errors
from sage_plugins.deployment.replicas.member import ManagedBy


def test_scaling_down_takes_the_replicas_that_are_missing_first(stage):
    """Scaling down removes missing replicas first."""
    stage = stage(replicas=3, **BALANCED)
    stage.target.refused = "no node has room"
    stage.kill("svc#0")
    stage.until(lambda: "replacement_refused" in stage.kinds)
    stage.env.scale("svc", 2)
    assert stage.ids == {"svc#1": "ready", "svc#2": "ready"}
    assert stage.clock.pending == 0
    assert stage.status["health"]["healthy"]


def test_a_missing_replica_counts_as_one(stage):
    """A missing replica counts as one, both for `scale` and for the difference from the configuration."""
    stage = stage(replicas=2, **BALANCED)
    stage.target.refused = "no node has room"
    stage.kill("svc#0")
    stage.until(lambda: "replacement_refused" in stage.kinds)
    assert stage.task.drift == {}
    stage.env.scale("svc", 2)
    assert "scaled" not in stage.kinds
    stage.target.refused = None
    stage.env.scale("svc", 3)
    assert stage.ids == {"svc#0": "failed", "svc#1": "ready", "svc#2": "ready"}
    stage.pass_wait()
    stage.ready("svc#0.1", "svc#1", "svc#2")


def test_restart_replaces_missing_replicas_now(stage):
    """`restart` replaces missing replicas at once and cancels their planned starts."""
    stage = stage(replicas=2, **BALANCED)
    stage.target.refused = "no node has room"
    stage.kill("svc#0")
    stage.until(lambda: "replacement_refused" in stage.kinds)
    stage.target.refused = None
    stage.env.restart("svc")
    assert stage.ids == {"svc#0.1": "ready", "svc#1.1": "ready"}
    assert stage.clock.pending == 0


def test_restart_while_a_replacement_is_starting_leaves_one_replica(stage, gate, in_thread):
    """If `restart` comes while a replacement is starting, that one is stopped and one replica is left."""
    stage = stage()
    stage.service.build = staticmethod(lambda _index: gate())
    stage.kill("svc#0")
    gate.wait_entered()
    restarting = in_thread(stage.env.restart, "svc")
    gate.wait_entered()
    gate.open()
    restarting.result(20)
    assert stage.ids == {"svc#0.2": "ready"}
    assert stage.handle.index() == 0


def test_restart_that_fails_leaves_a_dead_replica_to_the_supervisor(stage):
    """After a restart that failed, supervision goes on replacing the dead replica."""
    stage = stage()
    stage.target.refused = "no node has room"
    stage.kill("svc#0")
    stage.until(lambda: "replacement_refused" in stage.kinds)
    with pytest.raises(errors.DeployError, match="no node has room"):
        stage.env.restart("svc")
    stage.until(lambda: stage.kinds.count("replacement_refused") == 2)
    stage.target.refused = None
    stage.until(lambda: stage.ids != {"svc#0": "failed"} or stage.clock.pending)
    if stage.ids == {"svc#0": "failed"}:  # if not, the pending timer is the startup timeout of its successor
        stage.pass_wait()
    stage.until(lambda: list(stage.ids.values()) == ["ready"])


@pytest.mark.parametrize("change", ["scale", "restart"])
def test_change_while_a_replacement_is_placed_leaves_one_replica(stage, gate, in_thread, change):
    """A replacement whose place `scale` or `restart` takes while it is being placed is not started."""
    stage = stage(replicas=2, **BALANCED)
    stage.target.on_place = gate
    stage.kill("svc#0")
    gate.wait_entered()
    stage.target.on_place = lambda: None
    changing = in_thread(stage.env.scale, "svc", 1) if change == "scale" else in_thread(stage.env.restart, "svc")
    (dead,) = [member for member in stage.task.replicas.members if member.id == "svc#0"]
    stage.until(lambda: dead.managed_by is ManagedBy.NOBODY or dead.replacement is not None)
    gate.open()
    changing.result(20)
    if change == "scale":
        assert (stage.ids, stage.target.started) == ({"svc#1": "ready"}, ["svc#0", "svc#1"])
    else:
        assert stage.ids == {"svc#0.1": "ready", "svc#1.1": "ready"}
        assert stage.target.started == ["svc#0", "svc#1", "svc#0.1", "svc#1.1"]


def test_drain_without_a_replica_ends_what_waits(stage):
    """`drain` without a replica ends waiting calls at once, since no replica will start."""
    stage = stage()
    stage.target.refused = "no node has room"
    stage.kill("svc#0")
    waiting = stage.handle.submit("index")
    stage.env.drain("svc")
    with pytest.raises(errors.ServiceStoppedError):
        waiting.result(0)


@pytest.mark.parametrize("moment", ["waits", "is placed", "starts"])
def test_close_while_a_replica_is_being_replaced_starts_nothing_more(stage, gate, in_thread, moment):
    """`close` during a replacement starts nothing more, and waiting calls end with ServiceStoppedError."""
    stage = stage()
    if moment == "waits":
        stage.target.refused = "no node has room"
        stage.kill("svc#0")
        stage.until(lambda: "replacement_refused" in stage.kinds)
    elif moment == "is placed":
        stage.target.on_place = gate
        stage.kill("svc#0")
        gate.wait_entered()
    else:
        stage.service.build = staticmethod(lambda _index: gate())
        stage.kill("svc#0")
        gate.wait_entered()
    waiting = stage.handle.submit("index")
    closing = in_thread(stage.env.close, drain_timeout=0)
    stage.until(lambda: stage.status["state"] in {"draining", "stopped"})
    gate.open()
    closing.result(20)
    with pytest.raises(errors.ServiceStoppedError):
        waiting.result(20)
    assert stage.target.started == (["svc#0", "svc#0.1"] if moment == "starts" else ["svc#0"])
    assert set(stage.ids.values()) == {"stopped"}
    assert stage.clock.pending == 0


def test_close_waits_for_a_replacement_that_answers_what_waits(stage, gate, in_thread):
    """`close` waits, within `drain_timeout`, for a replacement that answers waiting calls."""
    stage = stage()
    stage.service.build = staticmethod(lambda _index: gate())
    stage.kill("svc#0")
    waiting = stage.handle.submit("index")
    closing = in_thread(stage.env.close)
    stage.until(lambda: stage.status["state"] == "draining")
    gate.open()
    assert waiting.result(20) == 0
    closing.result(20)


def test_service_may_be_closed_by_who_is_told_of_an_end(stage):
    """A listener can close the environment from the supervisor's thread."""
    stage = stage()
    stage.target.refused = "no node has room"
    closed = threading.Event()

    def close(event):
        if event.kind == "replacement_refused":
            stage.env.close(drain_timeout=0)
            closed.set()

    stage.listen = close
    stage.kill("svc#0")
    assert closed.wait(20)
    assert stage.status["state"] == "stopped"
