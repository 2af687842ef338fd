"""Calls sent ahead to a replica in another process: which calls, in which order, and with which outcomes."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

import loop_target
import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_remote.link import protocol
from sage_deploy_remote.link.protocol import CallItem, Frame, Unit
from sage_deploy_remote.link.serving.units import CallGroup
from sage_deploy_remote.payloads.packing import write
from sage_plugins import Environment, ServiceDeploymentConfig, idempotent
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Outcome

REGISTRY = Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, loop_target.Plugin())

PATIENCE_S = 20

#: By name: a test opens the gate, a method waits for it.
GATES = {}
CAME = {}


def gate(name):
    GATES[name] = threading.Event()
    CAME[name] = threading.Event()
    return GATES[name]


class Service:
    def __init__(self):
        self.answered = []

    @idempotent
    def twice(self, value):
        self.answered.append(value)
        return value

    def once(self, value):
        self.answered.append(value)
        return value

    @idempotent
    def fail(self, value):
        raise ValueError(value)

    @idempotent
    def wait(self, name):
        CAME[name].set()
        assert GATES[name].wait(PATIENCE_S)
        return name

    def order(self):
        return self.answered


class Deployed:
    """A service called through frames and responses, with a record of the frames sent to it."""

    def __init__(self, handle, frames, servers):
        self.handle = handle
        self.server = servers[0]
        self._frames = frames

    @property
    def sizes(self):
        """The number of calls in each unit, in the order sent."""
        return [len(unit.items) for frame in self._frames for unit in frame.units]


@contextmanager
def deployed(monkeypatch, **config):
    frames, servers = [], []
    exchange, start = loop_target.LoopTransport.exchange, loop_target.LoopTransport.start

    def noting_exchange(self, frame):
        frames.append(frame)
        return exchange(self, frame)

    def noting_start(self, spec, receiver):
        start(self, spec, receiver)
        servers.append(self.server)

    monkeypatch.setattr(loop_target.LoopTransport, "exchange", noting_exchange)
    monkeypatch.setattr(loop_target.LoopTransport, "start", noting_start)
    with Environment("test", registry=REGISTRY) as env:
        settings = ServiceDeploymentConfig(target="loop", timeout=PATIENCE_S, **config)
        env.register_service_with_config("svc", Service, deployment_config=settings)
        env.deploy()
        frames.clear()  # drop the frame of the canary
        yield Deployed(env.service("svc"), frames, servers)
        for each in GATES.values():
            each.set()
        GATES.clear()


def queue_behind(handle, method, values):
    """Submit calls while the only slot is taken, so that they wait together; then free the slot."""
    first = gate("first")
    blocker = handle.submit("wait", "first")
    assert CAME["first"].wait(PATIENCE_S)
    calls = [handle.submit(method, value) for value in values]
    first.set()
    assert blocker.result() == "first"
    return calls


def test_idempotent_calls_that_wait_share_a_frame_and_a_slot(monkeypatch):
    """
    Waiting idempotent calls share a frame. Bundles at most double in size each time, until the method proves fast.
    """
    with deployed(monkeypatch) as svc:
        calls = queue_behind(svc.handle, "twice", range(40))
        assert [call.result() for call in calls] == list(range(40))
        assert svc.handle.order() == list(range(40))
        assert max(svc.sizes) > 2
        assert all(size <= 2 * before for before, size in zip(svc.sizes[1:], svc.sizes[2:], strict=False))
        assert sum(svc.sizes) == 42


def test_calls_that_must_not_run_twice_travel_alone(monkeypatch):
    """Calls that are not idempotent go one per unit."""
    with deployed(monkeypatch) as svc:
        calls = queue_behind(svc.handle, "once", range(10))
        assert [call.result() for call in calls] == list(range(10))
        assert set(svc.sizes) == {1}


def test_the_handle_says_whether_calls_may_be_sent_ahead(monkeypatch):
    """`with_options(idempotent=...)` decides whether a handle's calls may share a unit, whatever the method says."""
    with deployed(monkeypatch) as svc:
        calls = queue_behind(svc.handle.with_options(idempotent=False), "twice", range(10))
        assert [call.result() for call in calls] == list(range(10))
        assert set(svc.sizes) == {1}
    with deployed(monkeypatch) as svc:
        calls = queue_behind(svc.handle.with_options(idempotent=True), "once", range(10))
        assert [call.result() for call in calls] == list(range(10))
        assert max(svc.sizes) > 1


def test_no_call_overtakes_one_that_must_travel_alone(monkeypatch):
    """Calls start in the order submitted, even if some of them must travel alone."""
    with deployed(monkeypatch) as svc:
        first = gate("first")
        svc.handle.submit("wait", "first")
        assert CAME["first"].wait(PATIENCE_S)
        methods = ["twice", "twice", "once", "twice", "twice", "once", "twice"] * 3
        calls = [svc.handle.submit(method, number) for number, method in enumerate(methods)]
        first.set()
        assert [call.result() for call in calls] == list(range(len(methods)))
        assert svc.handle.order() == list(range(len(methods)))


def test_each_call_of_a_bundle_has_its_own_outcome(monkeypatch):
    """If one call of a bundle fails, the others still get their results."""
    with deployed(monkeypatch) as svc:
        first = gate("first")
        svc.handle.submit("wait", "first")
        assert CAME["first"].wait(PATIENCE_S)
        calls = [svc.handle.submit(("twice", "fail")[number % 2], number) for number in range(20)]
        first.set()
        assert [call.result() for call in calls[::2]] == list(range(0, 20, 2))
        for number, call in list(enumerate(calls))[1::2]:
            with pytest.raises(ValueError, match=str(number)):
                call.result()
        assert max(svc.sizes) > 1


def test_what_was_sent_ahead_of_a_slow_call_goes_to_another_slot(monkeypatch):
    """Calls sent in one unit with a slow call move to another slot, so the slow call does not delay them."""
    with deployed(monkeypatch, threading_strategy="pool", thread_count=2, thread_pool_size=2) as svc:
        gates = {name: gate(name) for name in ("one", "two", "slow")}
        held = [svc.handle.submit("wait", name) for name in ("one", "two")]
        assert all(CAME[name].wait(PATIENCE_S) for name in ("one", "two"))
        slow, *others = [svc.handle.submit("wait", "slow"), *(svc.handle.submit("twice", n) for n in range(4))]
        gates["one"].set()
        assert CAME["slow"].wait(PATIENCE_S)
        assert svc.sizes[-1] == 2
        gates["two"].set()
        assert [call.result() for call in others] == list(range(4))
        assert not slow.done()
        gates["slow"].set()
        assert [call.result() for call in (*held, slow)] == ["one", "two", "slow"]


def test_what_came_back_can_be_cancelled_again(monkeypatch):
    """A call that the replica returned has not started, so its caller can cancel it again."""
    with deployed(monkeypatch) as svc:
        slow = gate("slow")
        first = gate("first")
        svc.handle.submit("wait", "first")
        assert CAME["first"].wait(PATIENCE_S)
        blocker, call = svc.handle.submit("wait", "slow"), svc.handle.submit("twice", 1)
        back = threading.Event()
        (lane,) = call.owner.lanes
        events = lane.send.__self__._events
        returned = events.returned
        monkeypatch.setattr(events, "returned", lambda calls: (returned(calls), back.set()))
        first.set()
        assert back.wait(PATIENCE_S)
        assert svc.sizes[-1] == 2
        assert call.cancel()
        slow.set()
        assert blocker.result() == "slow"
        assert svc.handle.order() == []


# -- in the replica's process ------------------------------------------------------------------------------------------


def frame_of(svc, number, calls, *notices, caller="another"):
    """Return a frame with one bundle of calls (method, argument). Their ids count from 1."""
    indexes = {method.name: method.index for method in svc.server.spec.methods}
    items = tuple(
        CallItem(id, indexes[method], write(((value,), {})), 0.0, PATIENCE_S)
        for id, (method, value) in enumerate(calls, 1)
    )
    units = (Unit(100, items),) if items else ()
    return Frame(caller, number, units, notices, fresh=not number)


def test_a_call_that_is_given_up_before_its_turn_never_runs_and_is_counted(monkeypatch):
    """A call given up before its turn never runs; the replica counts it as cancelled."""
    with deployed(monkeypatch) as svc:
        slow = gate("slow")
        counted = []
        monkeypatch.setattr(svc.server, "_record", lambda *what: counted.append(what[1]))
        give_up = (protocol.GIVE_UP, 2, Outcome.CANCELLED, 0.0)
        response = svc.server.exchange(frame_of(svc, 0, [("wait", "slow"), ("twice", 2), ("twice", 3)], give_up))
        assert response.replies == [(protocol.RETURNED, 100, [3])]
        assert counted == [Outcome.CANCELLED]
        slow.set()
        done, ended = svc.server.exchange(frame_of(svc, 1, [], (protocol.TAKEN_BACK, 3))).replies
        assert done[:2] == (protocol.DONE, 1)
        assert ended[:2] == (protocol.ENDED, 100)
        assert svc.handle.order() == []


def test_a_call_that_is_given_up_on_its_way_back_is_counted_where_it_was(monkeypatch):
    """A call given up on its way back counts in the replica: its caller cannot know that it was returned."""
    with deployed(monkeypatch) as svc:
        slow = gate("slow")
        counted = []
        monkeypatch.setattr(svc.server, "_record", lambda *what: counted.append(what[1]))
        response = svc.server.exchange(frame_of(svc, 0, [("wait", "slow"), ("twice", 2)]))
        assert response.replies == [(protocol.RETURNED, 100, [2])]
        slow.set()
        give_up = (protocol.GIVE_UP, 2, Outcome.TIMEOUT, 0.0)
        svc.server.exchange(frame_of(svc, 1, [], give_up))
        assert counted == [Outcome.TIMEOUT]
        assert svc.handle.order() == []


def test_method_that_takes_no_time_is_remembered(monkeypatch):
    """The server remembers a fast method until a call of it takes long."""
    with deployed(monkeypatch, threading_strategy="single") as svc:
        while not svc.server.quick_methods:  # the machine may be busy
            svc.handle.once(1)
        (once,) = svc.server.quick_methods
        svc.server.note_quick(once, 0.5)
        assert svc.server.quick_methods == set()


class Mailbox:
    """A mailbox that sends each reply at once."""

    sends_at_once = True

    def end_unit(self, reply=None):
        pass


def ran(method, begun, seconds):
    return SimpleNamespace(method=SimpleNamespace(index=method), began=begun, ended=begun + seconds)


QUICK, SLOW = 0, 1


@pytest.fixture
def unit():
    unit = CallGroup(Mailbox(), 0, 3)
    unit.waiting.extend([ran(QUICK, 0, 0), ran(SLOW, 0, 0)])
    return unit


def test_answer_waits_for_the_next_one_while_calls_take_no_time(unit):
    """
    Answers are held back while calls are fast, for half a millisecond at most: sending costs as much as a short call.
    """
    begun, known = unit._last_sent_at, {QUICK}
    held = [unit.delays_answer(ran(QUICK, begun + 0.00021 * number, 0.0001), known) for number in range(5)]
    assert held == [True, True, False, True, True]


def test_answer_waits_for_no_call_that_may_take_long(unit):
    """An answer is sent at once if the next call may take long or its method has not run yet."""
    unit.waiting.rotate(1)
    assert not unit.delays_answer(ran(QUICK, unit._last_sent_at, 0.0001), {QUICK})


def test_last_answer_waits_for_nothing(unit):
    """The last answer of a unit is sent at once: no other answer follows that it could leave with."""
    unit.waiting.clear()
    assert not unit.delays_answer(ran(QUICK, unit._last_sent_at, 0.0001), {QUICK, SLOW})
