"""Constructors and hooks of replicas without threads share a few, and none waits for another that hangs."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest

from sage_plugins.threads import ThreadsAside

PATIENCE = 20.0
SEEN: ContextVar[str] = ContextVar("SEEN", default="nothing")


class Quick:
    """Notes the thread of its constructor, and what that sees of others."""

    made: list[tuple[threading.Thread, str]]

    def __init__(self):
        self.made.append((threading.current_thread(), SEEN.get()))
        SEEN.set("what another has set")

    async def setup(self):
        """Runs on an event loop, of which the thread has one after the other."""

    async def stop(self):
        """As well."""

    def echo(self, value):
        return value


@pytest.fixture
def quick():
    return type("Mine", (Quick,), {"made": []})


def test_quick_constructors_share_threads(deploy, quick):
    """Rather than start a thread for each; how many there are is the machine's doing."""
    deploy("inline", quick, replicas=300)
    assert len(quick.made) == 300
    assert len({thread for thread, _ in quick.made}) < 300


def test_constructor_sees_nothing_of_those_before_it_on_its_thread(deploy, quick):
    deploy("inline", quick, replicas=20)
    assert {seen for _, seen in quick.made} == {"nothing"}


def test_constructors_that_wait_all_run_at_once(deploy):
    """A thread is added whenever all others are stuck: these constructors end only together."""
    barrier = threading.Barrier(12, timeout=PATIENCE)

    class Meeting:
        def __init__(self):
            barrier.wait()

        def echo(self, value):
            return value

    assert deploy("inline", Meeting, replicas=12).handle.echo(1) == 1


def test_constructor_that_hangs_holds_up_no_other_replica(deploy, quick, gate, in_thread):
    class Hanging:
        def __init__(self):
            gate()

        def echo(self, value):
            return value

    hanging = in_thread(deploy, "inline", Hanging)
    gate.wait_entered()
    assert deploy("inline", quick, replicas=20).handle.echo(1) == 1
    assert not hanging.done()
    gate.open()
    assert hanging.result(PATIENCE).handle.echo(2) == 2


def test_thread_has_the_replicas_name_while_it_runs_a_constructor(deploy):
    """So a stack dump says which replica hangs."""
    names = []

    class Named:
        def __init__(self):
            names.append(threading.current_thread().name)

        def echo(self, value):
            return value

    deploy("inline", Named)
    assert names == ["svc#0-start"]


def test_what_no_thread_can_be_started_for_is_not_run_later(monkeypatch):
    """Who handed it over is told, and may do it itself."""
    aside, ran = ThreadsAside("aside"), threading.Event()

    def refuse(_thread):
        msg = "can't start new thread"
        raise RuntimeError(msg)

    def wrong():
        pytest.fail("it was refused")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            aside.run(wrong)
    aside.run(ran.set)
    assert ran.wait(PATIENCE)
    aside.rest()
