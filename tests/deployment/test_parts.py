"""Rules of a deployed service's parts that tests of a whole service do not reach reliably."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from sage_plugins.deployment.lifecycle import ServiceLifecycle
from sage_plugins.deployment.replicas.member import Member
from sage_plugins.values import ReplicaState


@pytest.fixture
def member():
    lane = SimpleNamespace(freed=None, follow=None, refused=None, ahead=None, returned=None, slots=1)
    return Member(None, SimpleNamespace(id="svc#0", index=0), lane, None)


def test_replica_that_leaves_does_not_become_ready(member):
    """A replica that drains does not become ready when its constructor ends late. A late failure is still recorded."""
    assert member.begin_drain()
    assert not member.become(ReplicaState.READY, None)
    assert member.state is ReplicaState.DRAINING
    assert member.become(ReplicaState.FAILED, ValueError("late"))
    assert not member.become(ReplicaState.READY, None)


def test_background_thread_that_the_system_does_not_allow_is_started_later(monkeypatch):
    """While the system allows no more threads, a service's background work waits. It is not dropped."""
    monkeypatch.setattr("sage_plugins.deployment.lifecycle._AGAIN_S", 0.01)
    start, refusals, ran = threading.Thread.start, [1, 2], threading.Event()

    def start_later(thread):
        if thread.name == "svc-work" and refusals:
            refusals.pop()
            msg = "can't start new thread"
            raise RuntimeError(msg)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_later)
    lifecycle = ServiceLifecycle("svc")
    lifecycle.in_background(ran.set, "work")
    assert ran.wait(20)


def test_service_has_not_stopped_before_its_threads_have_ended():
    """A service has stopped only once its threads have ended. One of these threads may stop it."""
    lifecycle, gate, ended = ServiceLifecycle("svc"), threading.Event(), []
    lifecycle.begin()
    lifecycle.in_background(lambda: ended.append(gate.wait(20)), "waits")
    with lifecycle.condition:
        lifecycle.begin_end()
    stopping = threading.Thread(target=lifecycle.end)
    stopping.start()
    stopping.join(0.05)
    assert stopping.is_alive()
    gate.set()
    lifecycle.wait_stopped()
    assert ended == [True]
    stopping.join(20)
