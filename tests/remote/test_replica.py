"""A replica called through frames and responses behaves as replicas of every target do."""

from __future__ import annotations

import threading
from math import inf
from types import SimpleNamespace

import pytest

import loop_target
import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_remote.link import protocol
from sage_deploy_remote.link.protocol import Response
from sage_deploy_remote.link.replica import RemoteReplica
from sage_deploy_remote.link.transport import Stopped
from sage_deploy_remote.payloads.packing import write
from sage_deploy_remote.payloads.substrate import PLAIN
from sage_deploy_testing.suites.probes import Probe
from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.call.batch import Batch
from sage_plugins.call.call import Call
from sage_plugins.call.lazy_future import closed_lock
from sage_plugins.call.owner import CallOwner
from sage_plugins.clock import SYSTEM
from sage_plugins.errors import ServiceStoppedError
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import BatchPlan, CallOptions, MethodKind, MethodPlan, Outcome
from strategies_in_turn import StrategiesInTurn

REGISTRY = Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, loop_target.Plugin())


class TestByMessage(StrategiesInTurn):
    plugin_id = "loop"

    def registry(self):
        return REGISTRY

    def declared(self):
        # Its methods can call other services, but no other process can call it. So the target does not declare that.
        return {**super().declared(), "reachable": "loop"}

    # Its replicas use handles of this process, so the router does not see that they wait for themselves.
    test_start_hook_that_waits_for_its_own_end_fails_the_deployment = None
    test_start_hooks_that_wait_for_each_other_fail_the_deployment = None


def test_call_that_the_replica_has_answered_is_not_counted_by_who_gives_it_up_at_that_moment():
    """A call is counted once, by its replica, even if its deadline passes while the caller reads the answer."""
    with Environment("test", registry=REGISTRY) as env:
        env.register_service_with_config("svc", Probe, deployment_config=ServiceDeploymentConfig(target="loop"))
        call = env.service("svc").submit("echo", 1)
        call.result(20)

        assert call.lane.give_up(call, Outcome.TIMEOUT, 0.0)
        assert env.get_service_status("svc")["metrics"].request_count == 1


class Held:
    """Its methods run until the test releases them."""

    entered = threading.Event()
    released = threading.Event()

    def hold(self):
        self.entered.set()
        return self.released.wait(20)


@pytest.mark.parametrize("strategy", ["single", "async"])
def test_call_that_a_stop_ends_says_the_same_on_every_target(strategy):
    """
    A call that a stop ends has the same error on every target: it was still running, and how to give it more time.
    """
    registry = Registry.of(
        sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading, loop_target.Plugin()
    )
    texts = []
    for target in ("local", "loop"):
        Held.entered.clear()
        Held.released.clear()
        with Environment("test", registry=registry) as env:
            config = ServiceDeploymentConfig(target=target, threading_strategy=strategy)
            env.register_service_with_config("svc", Held, deployment_config=config)
            call = env.service("svc").submit("hold")
            assert Held.entered.wait(20)
            env.close(drain_timeout=0)
            with pytest.raises(ServiceStoppedError) as caught:
                call.result(20)
            texts.append(str(caught.value))
            Held.released.set()
    assert texts[0] == texts[1]
    assert "svc.hold was not answered by svc#0 before the service stopped; it was still running" in texts[0]


# -- who reads which response ------------------------------------------------------------------------------------------


def elsewhere(do):
    """Run a function in another thread, and wait for its end."""
    thread = threading.Thread(target=do)
    thread.start()
    thread.join()


class Owner(CallOwner):
    service = "svc"
    clock = SYSTEM

    def gave_up(self, call, outcome, *, started):
        pass


class Events:
    """A core that sends a refused call again at once."""

    def __init__(self):
        self.replica = None
        self.following = None  # gets the next free slot

    def ahead(self, _call, _most, **_):
        return ()

    def refused(self, call, *, stuck):
        assert not stuck
        assert call.mark_unstarted()
        self.replica.send(call)

    def changed(self, _state, _cause=None):
        pass

    def freed(self, _work):
        if self.following is not None:
            self.replica.send(self.following)
            self.following = None


class Exchange:
    left = False

    def read_elsewhere(self):
        self.left = True


class Transport:
    """Runs one step of a script in the middle of each exchange."""

    substrate = PLAIN
    pushes = exact = routes = False

    def __init__(self, *script):
        self.exchanges = []
        self.frames = []
        self._script = list(script)
        self.run_quick = lambda do: do()

    def start(self, _spec, _receiver):
        pass

    def exchange(self, frame):
        self.frames.append(frame)
        self.exchanges.append(Exchange())
        if self._script:
            self._script.pop(0)()
        return self.exchanges[-1]


def a_call():
    batch = BatchPlan("batch", MethodKind.SYNC, 2, 0.0)
    method = MethodPlan(0, "method", MethodKind.SYNC, idempotent=False, timeout=inf, batch=batch)
    return Call(Owner(), method, (), {}, CallOptions(), SYSTEM.monotonic(), inf, inf, None)


def test_caller_whose_call_is_sent_twice_waits_for_the_first_response_and_leaves_the_second():
    """
    If a call is sent twice, its caller reads the first response, and another thread reads the others.

    An unread response blocks all later ones. The caller's thread sends its call, then calls of others for the replica.
    The response says that no slot was free, so the same thread sends the call again before it starts to wait.
    """
    call, of_another, events = a_call(), a_call(), Events()
    transport = Transport(
        lambda: elsewhere(lambda: events.replica.send(of_another)),
        lambda: elsewhere(lambda: events.replica.arrived(Response(0, [(protocol.REFUSED, 0, False)]))),
    )
    spec = SimpleNamespace(id="svc#0", index=0, service="svc")
    events.replica = RemoteReplica(spec, None, events, SYSTEM, transport)
    call.reader_thread = threading.get_ident()

    events.replica.send(call)

    first, *others = transport.exchanges
    assert call.exchange is first
    assert [exchange.left for exchange in transport.exchanges] == [False, True, True]
    assert len(others) == 2


def a_replica(transport):
    events = Events()
    spec = SimpleNamespace(id="svc#0", index=0, service="svc")
    events.replica = RemoteReplica(spec, None, events, SYSTEM, transport)
    return events


def answers(unit):
    """Return the replies to a batch that has ended."""
    done = [(protocol.DONE, item.id, write(1)) for item in unit.items]
    return [*done, (protocol.ENDED, unit.id, 0.0)]


def test_next_batch_leaves_before_the_callers_of_the_last_one_are_woken():
    """The next batch is sent before the callers of the last one wake up, so the replica does not wait for them."""
    first, second = ([a_call(), a_call()] for _ in range(2))
    for call in first:
        call._latch = closed_lock()  # a caller waits
    woken = []
    transport = Transport(lambda: None, lambda: woken.extend(call.over() for call in first))
    events = a_replica(transport)
    events.replica.send(Batch(first))
    events.following = Batch(second)

    events.replica.arrived(Response(0, answers(transport.frames[0].units[0])))

    assert woken == [False, False]
    assert [call.result(0) for call in first] == [1, 1]
    assert [len(frame.units[0].items) for frame in transport.frames] == [2, 2]


def test_nothing_leaves_when_there_is_nothing_to_be_said_and_nothing_to_be_heard():
    """No frame is sent if there is nothing to send and no reply is due. On Ray a frame is an expensive task."""
    call, transport = a_call(), Transport()
    events = a_replica(transport)
    events.replica.send(call)
    events.replica.arrived(Response(0, [(protocol.DONE, 0, write(1))]))
    assert call.result(0) == 1
    assert len(transport.exchanges) == 1


class CountsStops(Transport):
    """Records the requests it gets."""

    def start(self, _spec, _receiver):
        self.asked = []

    def ask_to_stop(self):
        self.asked.append("ask")

    def stop(self, grace):
        self.asked.append(grace)
        return Stopped(0, None)


def test_process_is_asked_to_stop_once():
    """A process is asked to stop only once, however often `begin_stop` runs, and not after `stop`."""
    transport = CountsStops()
    replica = RemoteReplica(SimpleNamespace(id="svc#0", index=0, service="svc"), None, Events(), SYSTEM, transport)
    replica.begin_stop()
    replica.begin_stop()
    assert transport.asked == ["ask"]
    assert replica.stop(0) == 0
    replica.begin_stop()
    assert replica.stop(1) == 0
    assert transport.asked == ["ask", 0]


class SpeaksAsItIsKilled(Transport):
    """A process that reports the start of a call just before it is killed."""

    pushes = exact = True

    def kill(self):
        second = self.frames[0].units[0].items[1]
        self.receiver.arrived(Response(0, [(protocol.STARTING, second.id)]))

    def start(self, _spec, receiver):
        self.receiver = receiver


class Ahead(Events):
    """Returns calls that may be sent ahead, and records lost calls."""

    def __init__(self, *calls):
        super().__init__()
        self._calls = calls
        self.told = None

    def ahead(self, _call, _most, **_):
        calls, self._calls = self._calls, ()
        return calls

    def lost(self, unsent, maybe, cause):
        self.told = (list(unsent), list(maybe), cause)


def test_call_that_started_just_before_its_process_was_killed_is_no_call_that_has_not_started():
    """A start reported just before the kill counts, so the call does not run again on another replica."""
    first, second, transport = a_call(), a_call(), SpeaksAsItIsKilled()
    events = Ahead(second)
    spec = SimpleNamespace(id="svc#0", index=0, service="svc")
    events.replica = RemoteReplica(spec, None, events, SYSTEM, transport)
    events.replica.send(first)
    assert len(transport.frames[0].units[0].items) == 2
    cause = ServiceStoppedError("as a test wants it")

    assert events.replica.kill(cause)

    assert events.told == ([], [first, second], cause)


class Deciding(Transport):
    """A transport that does not know yet how calls are sent."""

    def start(self, _spec, receiver):
        self.receiver = receiver
        receiver.hold()


def test_calls_wait_until_it_is_known_which_way_they_go():
    """Calls wait until the transport knows its way. They have not started, and then leave in one frame."""
    calls, transport = [a_call(), a_call()], Deciding()
    events = a_replica(transport)
    for call in calls:
        events.replica.send(call)
    assert not transport.frames
    assert all(call.unstarted() for call in calls)

    transport.receiver.release()

    assert [len(frame.units) for frame in transport.frames] == [2]


def test_calls_that_wait_for_their_way_have_not_started_when_there_is_none():
    """
    If the transport finds no way, the waiting calls have not started, so they may run elsewhere, idempotent or not.
    """
    call, transport, events = a_call(), Deciding(), Ahead()
    spec = SimpleNamespace(id="svc#0", index=0, service="svc")
    events.replica = RemoteReplica(spec, None, events, SYSTEM, transport)
    events.replica.send(call)
    cause = ConnectionRefusedError("nobody listens")

    transport.receiver.lost(cause)

    assert events.told == ([call], [], cause)


def test_call_that_comes_when_it_is_known_that_there_is_no_way_has_not_started():
    """A call whose arguments took so long to pack that its replica was lost meanwhile may run elsewhere too."""
    call, transport, events = a_call(), Deciding(), Ahead()
    spec = SimpleNamespace(id="svc#0", index=0, service="svc")
    events.replica = RemoteReplica(spec, None, events, SYSTEM, transport)
    cause = ConnectionRefusedError("nobody listens")
    transport.receiver.lost(cause)

    events.replica.send(call)

    assert events.told == ([call], [], cause)
