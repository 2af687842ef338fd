"""What a replica's process tells its callers, and in which response."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from math import inf

import pytest

import loop_target
import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_remote.link import protocol
from sage_deploy_remote.link.protocol import CallItem, Frame, Unit
from sage_deploy_remote.link.serving import callers, outbox, server
from sage_deploy_remote.payloads.errors import unpack_error
from sage_deploy_remote.payloads.packing import write
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins import Environment, ServiceDeploymentConfig, batch_of
from sage_plugins.errors import CallError, ReplicaDiedError
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Outcome

REGISTRY = Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, loop_target.Plugin())
OPEN = threading.Event()
ENTERED = threading.Event()


class Service:
    def __init__(self):
        self.seen = []

    def hold(self):
        self.seen.append("hold")
        ENTERED.set()
        return OPEN.wait(20)

    def echo(self, value):
        return value

    def note(self, value):
        self.seen.append(value)

    def count(self):
        try:
            yield from range(10**6)
        finally:
            self.seen.append("ended")

    async def rest(self):
        ENTERED.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise

    def double(self, value):
        return 2 * value

    @batch_of("double")
    def double_all(self, values):
        return [2 * value for value in values]

    def all_seen(self):
        return self.seen


class Deployed:
    """One replica, called by the test and by the handle of its environment."""

    def __init__(self, env, server):
        self.server = server
        self.handle = env.service("svc")
        self._indexes = {method.name: method.index for method in server.spec.methods}

    def item(self, number, method, *args, streams=False):
        return CallItem(number, self._indexes[method], write((args, {})), 0.0, inf, streams)

    def frame(self, number, method=None, *args, caller="another", fresh=None, **how):
        """Return a frame with one call, or with none."""
        units = (Unit(number, (self.item(number, method, *args, **how),)),) if method else ()
        return Frame(caller, number, units, (), fresh=not number if fresh is None else fresh)

    def exchange(self, *args, **kwargs):
        return self.server.exchange(self.frame(*args, **kwargs))

    def callers(self):
        """Return the ids of the callers that the replica knows."""
        return list(self.server.callers._mailboxes)

    @property
    def held(self):
        """The number of slots in use."""
        return len(self.server._holders)

    @property
    def outcomes(self):
        """The number of calls by outcome."""
        return self.handle_status()["metrics"].outcomes


@pytest.fixture
def deployed(monkeypatch, request):
    OPEN.clear()
    ENTERED.clear()
    if "clock" in request.fixturenames:
        monkeypatch.setattr(server, "SYSTEM", request.getfixturevalue("clock"))
    servers = []
    start = loop_target.LoopTransport.start
    monkeypatch.setattr(
        loop_target.LoopTransport,
        "start",
        lambda self, spec, receiver: (start(self, spec, receiver), servers.append(self.server)),
    )
    with Environment("test", registry=REGISTRY) as env:
        config = ServiceDeploymentConfig(target="loop", threading_strategy="multi", thread_count=2, batch_size=8)
        env.register_service_with_config("svc", Service, deployment_config=config)
        env.deploy()
        found = Deployed(env, servers[0])
        found.handle_status = lambda: env.get_service_status("svc")
        yield found
        OPEN.set()


def test_an_answer_never_comes_with_a_response_to_an_earlier_frame(deployed):
    """An answer never comes with the response to an earlier frame: its caller does not read that one."""

    def exchange_aside(*what):
        thread = threading.Thread(target=deployed.exchange, args=what)
        thread.start()
        return thread

    # Frames are handled in order, so each of these exchanges waits when the next frame is handled.
    waiting = [exchange_aside(0, "hold")]
    for number in range(1, 100, 2):
        waiting.append(exchange_aside(number))
        response = deployed.exchange(number + 1, "echo", number)
        assert [reply[:2] for reply in response.replies] == [(protocol.DONE, number + 1)]
    OPEN.set()
    for thread in waiting:
        thread.join()


def test_answers_of_a_batch_come_with_its_end(deployed, monkeypatch):
    """The answers of a batch come in one response with its end, so the slot is free at once."""
    monkeypatch.setattr(outbox, "_LINGER_S", 0.0)
    result = deployed.server.packer.pack_result

    def packed_and_yielding(*what):
        for _ in range(100):  # let other threads run
            time.sleep(0)
        return result(*what)

    monkeypatch.setattr(deployed.server.packer, "pack_result", packed_and_yielding)
    for number in range(0, 200, 10):
        items = tuple(deployed.item(number + index, "double", index) for index in range(8))
        frame = Frame("another", number // 10, (Unit(number + 9, items, batch=True),), (), fresh=True)
        replies = deployed.server.exchange(frame).replies
        assert [(reply[0], reply[1] - number) for reply in replies] == [
            *((protocol.DONE, index) for index in range(8)),
            (protocol.ENDED, 9),
        ]


# -- callbacks that take their time ------------------------------------------------------------------------------------


@pytest.fixture
def slow_callback():
    """A callback that blocks until the test ends. Its event `running` says that it has started."""
    running, release = threading.Event(), threading.Event()

    def callback(_call):
        running.set()
        release.wait(20)

    callback.running = running
    yield callback
    release.set()


def test_callback_of_a_call_that_the_replica_gave_up_holds_up_no_answer(deployed, slow_callback, until):
    """A callback of a call that the replica gave up does not block the thread that reads responses."""
    holding = deployed.handle.submit("hold")
    holding.add_done_callback(slow_callback)
    until(lambda: [call for mailbox in deployed.server.callers._mailboxes.values() for call in mailbox.calls.values()])
    (call,) = [call for mailbox in deployed.server.callers._mailboxes.values() for call in mailbox.calls.values()]

    call.give_up(CallError("the replica has had enough"), Outcome.ERROR)

    assert slow_callback.running.wait(20)
    assert deployed.handle.submit("echo", 1).result(20) == 1
    with pytest.raises(CallError, match="had enough"):
        holding.result(20)


def test_callback_of_a_call_that_cannot_be_sent_holds_up_no_answer(deployed, slow_callback):
    """A callback of a call that cannot be sent does not block the thread that reads responses."""
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
    """Make the replica forget each silent caller as soon as another one comes."""
    monkeypatch.setattr(callers, "FORGOTTEN_AFTER_S", -1.0)


@pytest.mark.usefixtures("short_memory")
def test_callers_that_are_gone_are_forgotten(deployed):
    """The replica forgets callers that are gone, so its memory does not grow with each process."""
    for number in range(100):
        deployed.exchange(0, "echo", 1, caller=f"caller {number}")
    assert deployed.callers() == ["caller 99"]


@pytest.mark.usefixtures("short_memory")
def test_caller_for_which_something_runs_is_not_forgotten(deployed, until):
    """A caller with a running call is not forgotten."""
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(deployed.exchange, 0, "hold", caller="patient")
        until(lambda: "patient" in deployed.callers() and deployed.server.callers._mailboxes["patient"].calls)
        deployed.exchange(0, "echo", 1, caller="a third")
        assert deployed.callers() == ["patient", "a third"]
        OPEN.set()
        assert [reply[:2] for reply in holding.result(20).replies] == [(protocol.DONE, 0)]


@pytest.mark.usefixtures("short_memory")
def test_caller_that_was_only_quiet_goes_on_where_it_was(deployed, until):
    """A forgotten caller goes on: its responses keep their numbers, even if its frames overtake each other."""
    assert [deployed.exchange(number, "echo", number, fresh=True).number for number in range(3)] == [0, 1, 2]
    deployed.exchange(0, "echo", 1, caller="a third")
    assert deployed.callers() == ["a third"]
    with ThreadPoolExecutor(1) as pool:
        overtaking = pool.submit(deployed.exchange, 4, "echo", 4, fresh=False)
        until(lambda: "another" in deployed.callers())
        first = deployed.exchange(3, "echo", 3, fresh=True)
        responses = sorted([first, overtaking.result(20)])
    assert [response.number for response in responses] == [3, 4]
    assert {reply[1] for response in responses for reply in response.replies} <= {3, 4}


@pytest.mark.usefixtures("short_memory")
def test_handle_that_was_only_quiet_goes_on(deployed):
    """A handle that was forgotten goes on: after each answered call it marks its next frame as fresh."""
    for number in range(20):
        assert deployed.handle.echo(number) == number
        deployed.exchange(0, caller=f"caller {number}")
        assert deployed.callers() == [f"caller {number}"]


def test_caller_that_expects_something_and_was_forgotten_is_told(deployed, monkeypatch):
    """A forgotten caller that expects a reply gets an error, because that reply is lost."""
    monkeypatch.setattr(outbox, "_OVERTAKEN_WITHIN_S", 0.01)
    with pytest.raises(RuntimeError, match="did not respond"):
        deployed.exchange(7, "echo", 7, fresh=False)


def test_handle_says_of_no_frame_that_it_is_fresh_while_a_call_runs(deployed, monkeypatch):
    """While a call runs, a handle does not mark frames as fresh: the replica would drop the call's reply."""
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


# -- callers that are gone while something is done for them ------------------------------------------------------------


@pytest.fixture
def clock():
    """The replica's clock. The test advances it."""
    return VirtualClock()


@pytest.fixture
def leave(deployed, clock):
    """Send one frame for a caller that then goes silent; return the replies."""

    def leave(*items, unit=0):
        frame = Frame("gone", 0, (Unit(unit, items),), (), fresh=True)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(deployed.server.exchange, frame)
            if not items[0].streams:  # a stream has a reply at once
                assert ENTERED.wait(20)
                clock.advance(2 * callers.CHECK_INTERVAL_S)
            return answer.result(20).replies

    return leave


def test_exchange_that_waits_long_is_answered_with_an_empty_response(deployed, clock, until):
    """
    An exchange without news is answered empty after a while, so that a caller that died blocks no thread.

    A live caller sends another frame and gets its reply there.
    """
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(deployed.exchange, 0, "hold")
        assert ENTERED.wait(20)
        clock.advance(2 * callers.CHECK_INTERVAL_S)
        assert waiting.result(20) == (0, [])
        waiting = pool.submit(deployed.exchange, 1)
        OPEN.set()
        assert [reply[:2] for reply in waiting.result(20).replies] == [(protocol.DONE, 0)]


def test_exchange_that_came_a_moment_ago_is_not_answered_for_its_age(deployed, clock):
    """A young exchange is not answered early: it gets the answer of its call."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(deployed.exchange, 0, "hold")
        assert ENTERED.wait(20)
        clock.advance(callers.CHECK_INTERVAL_S)
        mailbox = deployed.server.callers._mailboxes[deployed.callers()[-1]]
        assert mailbox._answered_up_to < 0
        OPEN.set()
        assert [reply[:2] for reply in waiting.result(20).replies] == [(protocol.DONE, 0)]


def test_slot_of_a_stream_is_free_when_its_consumer_was_gone_for_a_minute(deployed, clock, leave, until):
    """
    If a stream's consumer is silent for too long, the generator is closed, the slot freed, and the call cancelled.
    """
    assert {reply[0] for reply in leave(deployed.item(0, "count", streams=True))} == {protocol.ITEM}
    clock.advance(callers.GONE_AFTER_S - callers.CHECK_INTERVAL_S)
    assert deployed.held == 1
    clock.advance(2 * callers.CHECK_INTERVAL_S)
    until(lambda: not deployed.held)
    assert deployed.handle.all_seen() == ["ended"]
    assert deployed.outcomes == {"cancelled": 1, "ok": 1}


def test_coroutine_of_a_caller_that_is_gone_is_cancelled(deployed, clock, leave, until):
    """A coroutine is cancelled when its caller has been silent for too long."""
    leave(deployed.item(0, "rest"))
    clock.advance(callers.GONE_AFTER_S + callers.CHECK_INTERVAL_S)
    until(lambda: not deployed.held)
    assert deployed.handle.all_seen() == ["cancelled"]


def test_caller_that_stood_still_for_less_than_a_minute_loses_nothing(deployed, clock, leave):
    """A caller that was silent for less than the limit gets its answer."""
    leave(deployed.item(0, "hold"))
    clock.advance(callers.GONE_AFTER_S - 1)
    OPEN.set()
    assert [reply[:2] for reply in deployed.exchange(1, caller="gone").replies] == [(protocol.DONE, 0)]


def test_caller_that_comes_back_too_late_is_told_what_was_given_up(deployed, clock, leave, until):
    """
    A caller that returns too late learns which calls were given up. Calls sent ahead never run, and none runs twice.
    """
    items = (deployed.item(0, "hold"), deployed.item(1, "note", 1), deployed.item(2, "note", 2))
    replies = leave(*items, unit=3)
    clock.advance(callers.GONE_AFTER_S + callers.CHECK_INTERVAL_S)

    replies += deployed.exchange(1, caller="gone").replies
    said = {reply[1]: unpack_error(reply[2]) for reply in replies if reply[0] == protocol.GAVE_UP}
    assert {type(error) for error in said.values()} <= {ReplicaDiedError}
    returned = [number for reply in replies if reply[0] == protocol.RETURNED for number in reply[2]]
    assert sorted([*said, *returned]) == [0, 1, 2]
    assert said[0].maybe_executed
    assert "svc.hold was given up by svc#0, which has heard nothing of this process for 60 s" in str(said[0])

    OPEN.set()
    until(lambda: not deployed.held)
    assert deployed.handle.all_seen() == ["hold"]
    assert [reply[:2] for reply in deployed.exchange(2, caller="gone").replies] == [(protocol.ENDED, 3)]


def test_what_a_caller_that_is_gone_was_to_be_told_is_forgotten(deployed, clock, leave, until):
    """Replies for a caller that is gone are dropped after a time, even if no other caller comes."""
    leave(deployed.item(0, "hold"))
    OPEN.set()
    until(lambda: not deployed.held)
    assert "gone" in deployed.callers()
    clock.advance(callers.FORGOTTEN_AFTER_S + callers.CHECK_INTERVAL_S)
    assert "gone" not in deployed.callers()


def test_handle_whose_process_stood_still_for_long_gets_a_typed_answer(deployed, clock, until, monkeypatch):
    """
    After its process stood still too long, a handle's call ends with ReplicaDiedError, counted once; the next works.
    """
    thawed = threading.Event()
    exchange = deployed.server.exchange
    monkeypatch.setattr(deployed.server, "exchange", lambda frame: (exchange(frame), thawed.wait(20))[0])
    holding = deployed.handle.submit("hold")
    assert ENTERED.wait(20)
    clock.advance(2 * callers.CHECK_INTERVAL_S)
    mailbox = deployed.server.callers._mailboxes[deployed.callers()[-1]]
    until(lambda: not mailbox._exchanges)
    clock.advance(callers.GONE_AFTER_S + callers.CHECK_INTERVAL_S)
    thawed.set()
    with pytest.raises(ReplicaDiedError, match="The process stood still, or was cut off") as caught:
        holding.result(20)
    assert caught.value.maybe_executed
    assert deployed.handle.echo(1) == 1
    assert deployed.outcomes == {"cancelled": 1, "ok": 1}


def test_nothing_looks_after_callers_when_nothing_is_done_for_any(deployed, clock):
    """Without running calls no timer checks on callers."""
    deployed.handle.echo(1)
    clock.run_all()
    assert clock.pending == 0


def test_call_that_never_starts_does_not_run_past_its_deadline(deployed, monkeypatch):
    """At its deadline, a call that was sent ahead and has not started is no reason to end the replica's process."""
    passed = []
    monkeypatch.setattr(deployed.server, "deadline_passed", lambda call: passed.append(call.method.name))
    mailbox = deployed.server.callers.mailbox("another")
    unit = Unit(2, (deployed.item(0, "hold"), deployed.item(1, "double", 1)))
    deployed.server.take(mailbox, Frame("another", 0, (unit,), (), fresh=True))
    assert ENTERED.wait(20)
    for number in (1, 0):
        deployed.server.take_notice(mailbox, (protocol.GIVE_UP, number, Outcome.TIMEOUT, 1.0))
    assert passed == ["hold"]
