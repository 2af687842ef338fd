"""What a replica in its own process says to its callers, and with which letter."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import loop_target
import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_ray import parcel, protocol, serving
from sage_deploy_ray.protocol import CallItem, Frame, Unit
from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.errors import CallError
from sage_plugins.plugins import Registry
from sage_plugins.values import Outcome

REGISTRY = Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, loop_target.Plugin())
OPEN = threading.Event()


class Service:
    def hold(self):
        return OPEN.wait(20)

    def echo(self, value):
        return value


class Deployed:
    """One replica, for callers of this test and for its own environment's handle."""

    def __init__(self, env, server):
        self.server = server
        self.handle = env.service("svc")
        self._indexes = {method.name: method.index for method in server.spec.methods}

    def frame(self, number, method=None, *args, caller="another", fresh=None):
        """A frame with one call, or none."""
        item = CallItem(number, self._indexes[method], parcel.write((args, {})), 0.0, 20.0) if method else None
        units = (Unit(number, (item,)),) if item else ()
        return Frame(caller, number, units, (), fresh=not number if fresh is None else fresh)

    def exchange(self, *args, **kwargs):
        return self.server.exchange(self.frame(*args, **kwargs))

    def callers(self):
        """Those that the replica knows."""
        return list(self.server._boxes)


@pytest.fixture
def deployed(monkeypatch):
    OPEN.clear()
    servers = []
    start = loop_target.LoopTransport.start
    monkeypatch.setattr(
        loop_target.LoopTransport,
        "start",
        lambda self, spec, receiver: (start(self, spec, receiver), servers.append(self.server)),
    )
    with Environment("test", registry=REGISTRY) as env:
        config = ServiceDeploymentConfig(target="loop", threading_strategy="multi", thread_count=2)
        env.register_service_with_config("svc", Service, deployment_config=config)
        env.deploy()
        yield Deployed(env, servers[0])
        OPEN.set()


def test_an_answer_never_comes_with_a_letter_to_an_earlier_frame(deployed):
    """A caller who waits for the letter to its own frame would not learn of it, and wait until its deadline."""

    def exchange_aside(*what):
        thread = threading.Thread(target=deployed.exchange, args=what)
        thread.start()
        return thread

    # Frames are taken in the order of their numbers, so each of these exchanges waits when the next frame is taken.
    waiting = [exchange_aside(0, "hold")]
    for number in range(1, 100, 2):
        waiting.append(exchange_aside(number))
        letter = deployed.exchange(number + 1, "echo", number)
        assert [reply[:2] for reply in letter.replies] == [(protocol.DONE, number + 1)]
    OPEN.set()
    for thread in waiting:
        thread.join()


# -- callbacks that take their time ------------------------------------------------------------------------------------


@pytest.fixture
def slow_callback():
    """A callback that does not return before the test ends; has an event that says that it runs."""
    running, release = threading.Event(), threading.Event()

    def callback(_call):
        running.set()
        release.wait(20)

    callback.running = running
    yield callback
    release.set()


def test_callback_of_a_call_that_the_replica_gave_up_holds_up_no_answer(deployed, slow_callback, until):
    """It runs aside: the thread that reads letters reads those of all callers."""
    holding = deployed.handle.submit("hold")
    holding.add_done_callback(slow_callback)
    until(lambda: [call for box in deployed.server._boxes.values() for call in box.calls.values()])
    (call,) = [call for box in deployed.server._boxes.values() for call in box.calls.values()]

    call.give_up(CallError("the replica has had enough"), Outcome.ERROR)

    assert slow_callback.running.wait(20)
    assert deployed.handle.submit("echo", 1).result(20) == 1
    with pytest.raises(CallError, match="had enough"):
        holding.result(20)


def test_callback_of_a_call_that_cannot_be_sent_holds_up_no_answer(deployed, slow_callback):
    """Calls that have waited are sent by the thread that reads letters."""
    holding = [deployed.handle.submit("hold") for _ in range(2)]
    waiting = deployed.handle.submit("echo", threading.Lock())
    waiting.add_done_callback(slow_callback)
    OPEN.set()

    assert slow_callback.running.wait(20)
    assert [call.result(20) for call in holding] == [True, True]
    assert deployed.handle.submit("echo", 1).result(20) == 1


# -- callers that are forgotten ----------------------------------------------------------------------------------------


@pytest.fixture
def short_memory(monkeypatch):
    """Have callers forgotten, as soon as there is another, that say nothing at the moment."""
    monkeypatch.setattr(serving, "_FORGOTTEN_AFTER_S", -1.0)


@pytest.mark.usefixtures("short_memory")
def test_callers_that_are_gone_are_forgotten(deployed):
    """Also one that did not stay for its answer; else the memory of a replica would grow with every process."""
    for number in range(100):
        deployed.exchange(0, "echo", 1, caller=f"caller {number}")
    assert deployed.callers() == ["caller 99"]


@pytest.mark.usefixtures("short_memory")
def test_caller_for_which_something_runs_is_not_forgotten(deployed, until):
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(deployed.exchange, 0, "hold", caller="patient")
        until(lambda: "patient" in deployed.callers() and deployed.server._boxes["patient"].calls)
        deployed.exchange(0, "echo", 1, caller="a third")
        assert deployed.callers() == ["patient", "a third"]
        OPEN.set()
        assert [reply[:2] for reply in holding.result(20).replies] == [(protocol.DONE, 0)]


@pytest.mark.usefixtures("short_memory")
def test_caller_that_was_only_quiet_goes_on_where_it_was(deployed, until):
    """Its frames may even overtake each other, and its letters are numbered on."""
    assert [deployed.exchange(number, "echo", number, fresh=True).number for number in range(3)] == [0, 1, 2]
    deployed.exchange(0, "echo", 1, caller="a third")
    assert deployed.callers() == ["a third"]
    with ThreadPoolExecutor(1) as pool:
        overtaking = pool.submit(deployed.exchange, 4, "echo", 4, fresh=False)
        until(lambda: "another" in deployed.callers())
        first = deployed.exchange(3, "echo", 3, fresh=True)
        letters = sorted([first, overtaking.result(20)])
    assert [letter.number for letter in letters] == [3, 4]
    assert {reply[1] for letter in letters for reply in letter.replies} <= {3, 4}


@pytest.mark.usefixtures("short_memory")
def test_handle_that_was_only_quiet_goes_on(deployed):
    """It says by itself that it has nothing to lose, after each call that was answered."""
    for number in range(20):
        assert deployed.handle.echo(number) == number
        deployed.exchange(0, caller=f"caller {number}")
        assert deployed.callers() == [f"caller {number}"]


def test_caller_that_expects_something_and_was_forgotten_is_told(deployed, monkeypatch):
    """What it was to be told is lost, and it would wait for that."""
    monkeypatch.setattr(serving, "_OVERTAKEN_WITHIN_S", 0.01)
    with pytest.raises(RuntimeError, match="stood still"):
        deployed.exchange(7, "echo", 7, fresh=False)


def test_handle_says_of_no_frame_that_it_is_fresh_while_a_call_runs(deployed, monkeypatch):
    """A replica would begin anew with it, and the caller would wait for what the call gives."""
    sent = []
    exchange = deployed.server.exchange
    monkeypatch.setattr(deployed.server, "exchange", lambda frame: (sent.append(frame), exchange(frame))[1])
    holding = deployed.handle.submit("hold")
    deployed.handle.echo(1)
    OPEN.set()
    holding.result(20)
    deployed.handle.echo(2)
    fresh = [frame.fresh for frame in sent]
    assert (fresh[0], fresh[-1], any(fresh[1:-1])) == (True, True, False)
