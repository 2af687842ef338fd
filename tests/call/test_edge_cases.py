"""
Handles and unusual calls: what is served, exceptions that cannot be printed, waiters, callbacks, options.

The strategies' suite covers the other rules of calls.
"""

from __future__ import annotations

import asyncio
import decimal
import logging
import pickle
import threading
from concurrent.futures import Future
from math import inf

import pytest

from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins import errors
from sage_plugins.call import call as call_module
from sage_plugins.call.call import Call
from sage_plugins.call.owner import CallOwner
from sage_plugins.values import CallOptions, MethodKind, MethodPlan

PATIENCE = 20.0


class Unprintable:
    """A service that raises an exception which cannot be printed."""

    def leave(self):
        class UnprintableExit(SystemExit):
            def __str__(self):
                raise RuntimeError("no text")

        raise UnprintableExit

    def alive(self):
        return "alive"


def outcomes(handle):
    """Each way to make a call and get its outcome, by name."""
    return {
        "call": handle.call,
        "submit": lambda *args: handle.submit(*args).result(PATIENCE),
        "acall": lambda *args: asyncio.run(handle.acall(*args)),
    }


VERBS = pytest.mark.parametrize("verb", ["call", "submit", "acall"])


def test_error_is_told_from_a_signal_without_asking_local_variables_for_their_class(deploy):
    """Under `inline`, a proxy among a method's variables changes nothing about the error that the method raises."""

    class Proxy:
        @property
        def __class__(self):
            raise RuntimeError("it is not connected")

    class Service:
        def fail(self):
            proxy = Proxy()
            raise KeyError(type(proxy).__name__)

    call = deploy("inline", Service).handle.submit("fail")
    assert isinstance(call.exception(PATIENCE), KeyError)


# -- handles -----------------------------------------------------------------------------------------------------------


def test_handle_does_not_travel(deploy):
    """A handle to a service in this process cannot be pickled, and the error says why."""
    with pytest.raises(errors.CallError, match="target 'local' runs the service in this process"):
        pickle.dumps(deploy("single").handle)


# -- what is served ----------------------------------------------------------------------------------------------------


@VERBS
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("_private", "private"),
        ("__init__", "private"),
        ("stop", "life-cycle hook"),
        ("setup", "life-cycle hook"),
        ("check_health", "life-cycle hook"),
        ("ecco", "did you mean 'echo'"),
        ("Echo", "did you mean 'echo'"),
        ("qqqqqqqqqq", "its methods are "),
        ("", "its methods are "),
    ],
)
def test_what_is_not_served_is_not_found(deploy, verb, name, why):
    """Private names, hooks and unknown names raise MethodNotFoundError, which says why or suggests the nearest name."""
    with pytest.raises(errors.MethodNotFoundError, match=why) as caught:
        outcomes(deploy("single").handle)[verb](name)
    assert isinstance(caught.value, AttributeError)
    assert (caught.value.service, caught.value.method) == ("svc", name)


def test_private_attribute_is_no_method(deploy):
    """A private name is no attribute of a handle."""
    handle = deploy("single").handle
    with pytest.raises(AttributeError):
        _ = handle._private


def test_unknown_attribute_call_is_not_found(deploy, strategy):
    """An unknown attribute call raises MethodNotFoundError, which suggests the nearest name."""
    with pytest.raises(errors.MethodNotFoundError, match="did you mean 'echo'"):
        deploy(strategy).handle.ecoh(1)


@VERBS
@pytest.mark.parametrize("name", ["items", "aitems"])
def test_generator_method_says_stream(deploy, strategy, verb, name):
    """`call`, `submit` and `acall` of a generator method raise TypeError, which names `stream`."""
    with pytest.raises(TypeError, match="stream"):
        outcomes(deploy(strategy).handle)[verb](name, 3)


def test_served_names_that_the_handle_uses_itself(environments):
    """The handle's own names win over methods of the same name; `call` reaches the method."""

    class Shadowed:
        def submit(self, value):
            return ("method", value)

    env = environments()
    env.register_service("shadowed", Shadowed)
    handle = env.service("shadowed")
    assert isinstance(handle.submit("submit", 1), Future)
    assert handle.call("submit", 1) == ("method", 1)


# -- exceptions --------------------------------------------------------------------------------------------------------


def test_exit_without_text_becomes_remote_error(deploy, strategy):
    """An exception that cannot be printed ends only its own call, with RemoteError."""
    handle = deploy(strategy, Unprintable, timeout=2.0).handle
    with pytest.raises(errors.RemoteError, match="UnprintableExit"):
        handle.call("leave")
    assert handle.alive() == "alive"


# -- futures -----------------------------------------------------------------------------------------------------------


class Waiter:
    """A waiter as `concurrent.futures.wait` and `as_completed` add it to a future."""

    def __init__(self):
        self.told = []

    def add_result(self, future):
        self.told.append(future)

    add_exception = add_cancelled = add_result


@pytest.mark.parametrize("ending", ["result", "cancel"])
def test_waiter_is_told_of_an_end_that_was_not_seen(deploy, gate, occupy, in_thread, until, ending):  # noqa: PLR0913, PLR0917 - fixtures
    """
    A waiter added under the future's condition is told exactly once, or never if the future was already over.

    `wait` and `as_completed` rely on that: told twice, `wait` returns while another call is pending.
    """
    service = deploy("single")
    if ending == "result":
        future = service.handle.submit("run", gate)
        gate.wait_entered()
    else:
        occupied = occupy(service)
        future = service.handle.submit("echo")
    early, late = Waiter(), Waiter()
    with future._condition:
        future._waiters.append(early)
    with future._condition:
        # The call ends as far as it can while the condition is held.
        if ending == "result":
            gate.open()
            until(lambda: service.env.get_service_status("svc")["replicas"][0]["inflight"] == 0)
        else:
            cancelling = in_thread(future.cancel)
            until(lambda: service.waiting == 0)
        threading.Event().wait(0.02)
        over = future._state in {"FINISHED", "CANCELLED_AND_NOTIFIED"}
        future._waiters.append(late)
    if ending == "cancel":
        assert cancelling.result(PATIENCE)
        occupied.open()
    service.handle.echo()  # after this call, all waiters have been told
    assert early.told == [future]
    assert late.told == ([] if over else [future])


def test_callback_that_raises_is_logged(deploy, strategy, gate, caplog):
    """An exception in a callback is logged; other callbacks, the caller and the worker are unaffected."""
    handle = deploy(strategy).handle
    future = handle.submit("echo", 1) if strategy == "inline" else handle.submit("run", gate, 1)
    ended = threading.Event()

    def fail(_):
        raise RuntimeError("the callback's own")

    with caplog.at_level(logging.ERROR, "sage_plugins"):
        future.add_done_callback(fail)
        future.add_done_callback(lambda _: ended.set())
        gate.open()
        assert ended.wait(PATIENCE)
    assert future.result(PATIENCE) == 1
    assert "the callback's own" in caplog.text
    assert handle.echo(2) == 2


# -- cancelling --------------------------------------------------------------------------------------------------------


def test_cancel_wakes_who_waits(deploy, threaded, occupy, in_thread, until):
    """If one thread cancels a call, another thread that waits for its result gets CallCancelledError."""
    service = deploy(threaded)
    occupied = occupy(service)
    future = service.handle.submit("echo")
    waiting = in_thread(future.result, PATIENCE)
    until(lambda: future._latch is not None)
    assert future.cancel()
    with pytest.raises(errors.CallCancelledError):
        waiting.result(PATIENCE)
    occupied.open()


# -- owners ------------------------------------------------------------------------------------------------------------


class Owner(CallOwner):
    """Makes calls that no replica runs."""

    service = "svc"
    clock = VirtualClock()

    def gave_up(self, call, outcome, *, started):
        """Counts nothing."""

    def make(self, cls=Call):
        method = MethodPlan(0, "get", MethodKind.SYNC, idempotent=False, timeout=inf)
        return cls(self, method, (), {}, CallOptions(), 0.0, inf, inf, None)


def test_owner_is_told_once_that_a_call_has_its_outcome():
    """The owner is told once when a call has its outcome."""
    call, told = Owner().make(), []
    call.on_settled(lambda: told.append(call.over()))
    assert call.claim()
    assert call.claim_outcome()
    call.publish("value")
    assert told == [True]
    assert call.result_now() == "value"
    assert not call.abandon()
    assert told == [True]


def test_owner_is_told_that_a_call_was_given_up():
    """The owner is told when a call is cancelled."""
    call, told = Owner().make(), []
    call.on_settled(lambda: told.append(type(call.exception_now())))
    assert call.cancel()
    assert told == [errors.CallCancelledError]


def test_who_gives_a_call_up_takes_both_tokens_in_one_step():
    """
    Refusing or cancelling a call takes both its tokens under one lock.

    If not, it could count as running without a replica.
    """
    held = []

    class Watched(Call):
        def claim(self):
            held.append(call_module._GIVING_UP._is_owned())
            return super().claim()

        def claim_outcome(self):
            held.append(call_module._GIVING_UP._is_owned())
            return super().claim_outcome()

    refuse = lambda call: call.refuse(errors.OverloadedError("full"))  # noqa: E731 - one expression
    for give_up in (refuse, Call.cancel):
        call = Owner().make(Watched)
        give_up(call)
        assert call.over()
    assert held == [True] * 4


# -- coroutines --------------------------------------------------------------------------------------------------------


def test_loop_that_ended_is_forgotten(deploy, threaded, gate, caplog):
    """If a loop is closed before its call's result comes, other calls are unaffected."""
    service = deploy(threaded)
    loop = asyncio.new_event_loop()
    task = loop.create_task(service.handle.acall("run", gate))
    loop.run_until_complete(asyncio.sleep(0))
    while not task.done() and not gate.entered:
        loop.run_until_complete(asyncio.sleep(0.001))
    task._log_destroy_pending = False
    loop.close()
    gate.open()
    assert [service.handle.echo(turn) for turn in range(3)] == [0, 1, 2]
    assert not caplog.records
    task.get_coro().close()


# -- options of a handle -----------------------------------------------------------------------------------------------


def test_with_options_gives_another_handle(deploy, threaded, occupy):
    """`with_options` affects only calls of the handle that it returns."""
    service = deploy(threaded, timeout=PATIENCE)
    occupied = occupy(service)
    hasty = service.handle.with_options(timeout=0.02)
    patient = service.handle.submit("echo", "patient")
    with pytest.raises(errors.CallTimeoutError):
        hasty.echo()
    with pytest.raises(errors.CallTimeoutError):
        hasty.with_options(key="k").echo()  # options add up
    occupied.open()
    assert patient.result(PATIENCE) == "patient"
    assert hasty.with_options(timeout=None).echo(1) == 1


def test_timeout_none_is_no_limit(deploy, strategy):
    """`timeout=None` lifts the configuration's timeout, and `remaining()` returns None."""
    service = deploy(strategy, timeout=10.0)

    def remaining():
        return service.handle.call("context").remaining()

    assert service.handle.with_options(timeout=None).call("run", lambda: None) is None
    context = service.handle.context()
    assert service.handle.with_options(timeout=None).call("run", context.remaining) is None
    assert 0 < service.handle.call("run", context.remaining) <= 10
    assert remaining() is None, "outside any call there is no limit"


@pytest.mark.parametrize(
    "timeout",
    [0, -1, -0.5, True, False, "1", float("nan"), float("inf"), [], 10**400, decimal.Decimal(1)],
    ids=lambda value: repr(value)[:20],
)
def test_bad_timeout_is_a_config_error(deploy, timeout):
    """A timeout that is no number of seconds above 0 and not None raises ConfigError."""
    with pytest.raises(errors.ConfigError, match="timeout"):
        deploy("single").handle.with_options(timeout=timeout)


@pytest.mark.parametrize("priority", [True, "1", 1.0, None, 1_000_001, -(10**30)], ids=repr)
def test_bad_priority_is_a_config_error(deploy, priority):
    """A priority that is no whole number from -1,000,000 to 1,000,000 raises ConfigError."""
    with pytest.raises(errors.ConfigError, match="priority: must be a whole number"):
        deploy("single").handle.with_options(priority=priority)


def test_key_and_idempotent_travel_with_the_call(deploy, threaded):
    """The call carries the key and `idempotent` of its handle."""
    handle = deploy(threaded).handle
    call = handle.with_options(key=("tenant", 7), idempotent=True).submit("echo")
    assert (call.key, call.options.idempotent) == (("tenant", 7), True)
    plain = handle.submit("echo")
    assert (plain.key, plain.options.idempotent) == (None, None)
