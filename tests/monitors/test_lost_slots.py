"""The monitor `health` in virtual time: replicas whose slots are all lost are unhealthy."""

from __future__ import annotations

import pytest

from sage_plugins.routing.slot_recovery.recovery import SlotRecovery
from ward import INTERVAL, Both, Patient


def abandon(service, gate, handle):
    """Abandon one call while it runs."""
    call = handle.submit("run", gate)
    gate.wait_entered()
    call.abandon()


@pytest.mark.parametrize("cls", [Patient, Both])
def test_replica_whose_slots_are_all_abandoned_is_unhealthy(ward, gates, threaded, cls):
    """A replica whose slots are all held by abandoned calls is unhealthy until one is free, even without checks."""
    two = {"thread_count": 2, "thread_pool_size": 2} if threaded == "pool" else {}
    slots = 2 if two else 1
    service = ward(cls, strategy=threaded, failure_threshold=3, success_threshold=1, **two)
    handle = service.env.service("svc")
    held = [gates() for _ in range(slots)]
    for gate in held[1:]:
        abandon(service, gate, handle)
    for _ in range(4):
        service.advance(INTERVAL)
        assert service.states == ["ready"]
    abandon(service, held[0], handle)
    service.advance(INTERVAL)
    service.advance(INTERVAL)
    assert service.states == ["ready"]
    service.advance(INTERVAL)
    assert service.states == ["unhealthy"]
    assert f"all its {slots} slots are held by calls that were given up and still run" in service.told[-1][2]
    held[0].open()
    handle.index()
    service.advance(INTERVAL)
    assert service.states == ["ready"]


def test_replica_whose_slots_are_taken_and_that_runs_nothing_is_unhealthy(ward, monkeypatch):
    """A replica whose slots are all taken while no worker runs anything is unhealthy."""
    monkeypatch.setattr(SlotRecovery, "look", lambda _: None)
    service = ward(Patient, timeout=1.0)
    (lane,) = service.env.task("svc")._router.lanes
    lane.free.clear()
    call = service.env.service("svc").submit("index")
    service.advance(INTERVAL)
    assert call.expire()
    for _ in range(2):
        service.advance(INTERVAL)
        assert service.states == ["ready"]
    service.advance(INTERVAL)
    assert service.states == ["unhealthy"]
    assert "all its slots (1) are taken, but no worker runs anything" in service.told[-1][2]
    lane.free.append(None)
    service.advance(2 * INTERVAL)
    assert service.states == ["ready"]


def test_replica_that_is_seen_between_two_calls_is_well(ward, monkeypatch):
    """
    A replica that answers short calls between the checks is healthy, though all its slots are taken at each check.
    """
    monkeypatch.setattr(SlotRecovery, "look", lambda _: None)
    service = ward(Patient, timeout=1.0)
    handle, (lane,) = service.env.service("svc"), service.env.task("svc")._router.lanes
    lane.free.clear()
    lost = handle.submit("index")
    service.advance(INTERVAL)
    assert lost.expire()  # from now on the monitor watches the replica
    for _ in range(4):
        service.advance(INTERVAL / 2)
        lane.free.append(None)
        handle.index()
        lane.free.clear()
        service.advance(INTERVAL / 2)
        assert service.states == ["ready"]
    service.advance(3 * INTERVAL)
    assert service.states == ["unhealthy"]
    lane.free.append(None)


def test_replica_that_runs_a_call_for_long_is_well(ward, gate):
    """A replica that runs one long call is healthy."""
    service = ward(Patient, timeout=1.0)
    service.env.service("svc").with_options(timeout=1000).submit("run", gate)
    gate.wait_entered()
    call = service.env.service("svc").submit("index")
    service.advance(INTERVAL)
    assert call.expire()
    for _ in range(5):
        service.advance(INTERVAL)
        assert service.monitor._probes
        assert service.states == ["ready"]
    gate.open()


def test_nothing_is_looked_at_once_no_call_is_abandoned(ward, gate):
    """Once no call is abandoned any more, a service without checks has no timer."""
    service = ward(Patient)
    abandon(service, gate, service.env.service("svc"))
    service.advance(INTERVAL)
    assert service.clock.pending == 1
    gate.open()
    service.env.service("svc").index()
    service.advance(INTERVAL)
    service.advance(INTERVAL)
    assert service.clock.pending == 0
    assert not service.monitor._probes
