"""Constructors and hooks of replicas without threads share a few threads, and none waits for another one that hangs."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest

from sage_plugins.threads import CALLBACKS, ThreadsAside

PATIENCE = 20.0
SEEN: ContextVar[str] = ContextVar("SEEN", default="nothing")


class Quick:
    """Records the thread of its constructor and the context variable that it sees there."""

    made: list[tuple[threading.Thread, str]]

    def __init__(self):
        self.made.append((threading.current_thread(), SEEN.get()))
        SEEN.set("what another has set")

    async def setup(self):
        """Runs on an event loop."""

    async def stop(self):
        """Runs on an event loop."""

    def echo(self, value):
        return value


@pytest.fixture
def quick():
    return type("Mine", (Quick,), {"made": []})


def test_quick_constructors_share_threads(deploy, quick):
    """Quick constructors share threads: 300 of them use fewer than 300 threads."""
    deploy("inline", quick, replicas=300)
    assert len(quick.made) == 300
    assert len({thread for thread, _ in quick.made}) < 300


def test_constructor_sees_nothing_of_those_before_it_on_its_thread(deploy, quick):
    """A constructor does not see context variables that an earlier one set on the same thread."""
    deploy("inline", quick, replicas=20)
    assert {seen for _, seen in quick.made} == {"nothing"}


def test_constructors_that_wait_all_run_at_once(deploy):
    """Constructors that wait for each other all run at once: a thread is added whenever all others are blocked."""
    barrier = threading.Barrier(12, timeout=PATIENCE)

    class Meeting:
        def __init__(self):
            barrier.wait()

        def echo(self, value):
            return value

    assert deploy("inline", Meeting, replicas=12).handle.echo(1) == 1


def test_constructor_that_hangs_holds_up_no_other_replica(deploy, quick, gate, in_thread):
    """A constructor that hangs delays no other replica."""

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
    """While a thread runs a constructor it has the replica's name, so a stack dump says which replica hangs."""
    names = []

    class Named:
        def __init__(self):
            names.append(threading.current_thread().name)

        def echo(self, value):
            return value

    deploy("inline", Named)
    assert names == ["svc#0-start"]


@pytest.fixture
def refuse_threads(monkeypatch):
    """Returns a function that makes the start of threads with a given name raise an error."""
    start, refused = threading.Thread.start, {}

    def start_others(thread):
        if refused.get(thread.name) is not None:
            raise refused[thread.name]
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_others)
    return refused.__setitem__


def test_callback_runs_and_its_worker_goes_on_though_no_thread_can_be_started(deploy, gate, refuse_threads):
    """If no thread can be started for callbacks, they run in the thread that ends the call, and its worker goes on."""
    service = deploy("single")
    called = []
    call = service.handle.submit("run", gate)
    call.add_done_callback(called.append)
    gate.wait_entered()
    CALLBACKS.rest()
    refuse_threads("sage-deploy-callbacks", RuntimeError("can't start new thread"))
    gate.open()
    assert service.handle.submit("echo", 1).result(PATIENCE) == 1
    assert called == [call]


def test_interrupted_start_of_a_thread_does_not_keep_later_functions_from_running(refuse_threads):
    """If a signal handler raises while a thread is being started, functions that come later still run."""
    aside, ran = ThreadsAside("aside"), threading.Event()
    refuse_threads("aside", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        aside.run(str)
    refuse_threads("aside", None)
    aside.run(ran.set)
    assert ran.wait(PATIENCE)
    aside.rest()


def test_what_no_thread_can_be_started_for_is_not_run_later(monkeypatch):
    """If no thread can be started, the caller gets the error and its function never runs later."""
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
