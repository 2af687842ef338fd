"""Errors that methods raise are recorded by type, within limits."""

from __future__ import annotations

import threading

import pytest

import process_target
import sage_deploy_monitors
import sage_deploy_threading
from sage_plugins import ServiceDeploymentConfig, batch_of, errors, hookimpl
from sage_plugins.interfaces.operations import MethodError
from sage_plugins.plugins.registry import Registry
from sage_plugins.service import method_errors
from sage_plugins.service.method_errors import TYPES, add_up

pytestmark = pytest.mark.filterwarnings("error")


class Faulty:
    def fail(self, text, kind=LookupError):
        raise kind(text)

    async def afail(self):
        raise KeyError("gone")

    def leave(self):
        raise SystemExit(3)

    def items(self):
        yield 1
        raise BrokenPipeError("no more")

    def made_up(self, number):
        raise type(f"Made{number}", (Exception,), {})("made up")

    def unreadable(self):
        class UnreadableError(Exception):
            def __str__(self):
                raise SystemExit

        raise UnreadableError

    def slow(self):
        while not self.ctx.cancelled:
            threading.Event().wait(0.01)
        raise LookupError("nobody waits for it")

    def fine(self):
        return 1


@pytest.fixture
def faulty(env):
    def deploy(strategy="pool", **more):
        config = ServiceDeploymentConfig(threading_strategy=strategy, timeout=20, **more)
        env.register_service_with_config("faulty", Faulty, deployment_config=config)
        env.deploy()
        return env.service("faulty")

    return deploy


@pytest.mark.parametrize("strategy", ["single", "pool", "inline", "async"])
def test_an_error_is_known_with_all_that_is_needed_to_find_it(env, faulty, strategy):
    """`errors` returns type, count, message, method and traceback, under every strategy."""
    handle = faulty(strategy)
    for _ in range(3):
        with pytest.raises(LookupError):
            handle.fail("lost")
    handle.fine()
    (error,) = env.errors("faulty")
    assert (error.type, error.count, error.message, error.method) == ("LookupError", 3, "lost", "fail")
    assert "raise kind(text)" in error.traceback
    assert error.traceback.endswith("LookupError: lost\n")


def test_coroutines_streams_and_what_would_end_the_process_count_by_their_own_types(env, faulty):
    """Errors of coroutines and streams, and SystemExit, count under their own types."""
    handle = faulty("async")
    for call in (lambda: handle.call("afail"), handle.leave, lambda: list(handle.stream("items"))):
        with pytest.raises(Exception):  # noqa: B017, PT011 - the test is not about which one
            call()
    found = {each.type: each for each in env.errors("faulty")}
    assert set(found) == {"KeyError", "SystemExit", "BrokenPipeError"}
    assert (found["SystemExit"].message, found["SystemExit"].method) == ("3", "leave")
    assert "raise SystemExit(3)" in found["SystemExit"].traceback


def test_an_error_that_cannot_be_read_reaches_its_caller_all_the_same(env, faulty):
    """An exception that cannot be printed still reaches its caller and is recorded."""
    handle = faulty()
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the method makes its class
        handle.unreadable()
    assert type(raised.value).__name__ == "UnreadableError"
    (error,) = env.errors("faulty")
    assert error.message == "<its text cannot be read>"


def test_a_call_that_was_given_up_is_no_error_of_its_method(env, faulty):
    """A call that timed out is not recorded as an error of its method."""
    handle = faulty("async")
    with pytest.raises(errors.CallTimeoutError):
        handle.with_options(timeout=0.01).slow()
    assert env.errors("faulty") == []


def test_no_more_than_so_many_types_are_kept_and_the_latest_stay(env, faulty):
    """At most `TYPES` error types are kept, the latest ones."""
    handle = faulty()
    for number in range(TYPES + 5):
        with pytest.raises(Exception, match="made up"):
            handle.made_up(number)
    assert {each.type for each in env.errors("faulty")} == {f"Made{number}" for number in range(5, TYPES + 5)}


def test_texts_are_cut(env, faulty):
    """Long messages and tracebacks are cut."""
    with pytest.raises(LookupError):
        faulty().fail("x" * 10**6)
    (error,) = env.errors("faulty")
    assert len(error.message) + len(error.traceback) < 20_000


def test_text_of_a_type_is_of_a_late_one(env, faulty, monkeypatch):
    """For a frequent error the message and traceback are renewed rarely, and both come from the same call."""
    handle = faulty("single")
    for text in ("first", "second"):
        with pytest.raises(LookupError):
            handle.fail(text)
    assert [(each.count, each.message) for each in env.errors("faulty")] == [(2, "first")]
    monkeypatch.setattr(method_errors, "_FRESH_S", 0.0)
    with pytest.raises(LookupError):
        handle.fail("third")
    (error,) = env.errors("faulty")
    assert (error.count, error.message, error.traceback.splitlines()[-1]) == (3, "third", "LookupError: third")


def test_replicas_are_added_up_and_the_most_frequent_comes_first(env, faulty):
    """Counts are summed over replicas, and the most frequent type comes first."""
    handle = faulty(replicas=2, load_balancer="round_robin")
    for kind in (LookupError, LookupError, LookupError, LookupError, ValueError):
        with pytest.raises(kind):
            handle.fail("lost", kind=kind)
    assert [(each.type, each.count) for each in env.errors("faulty")] == [("LookupError", 4), ("ValueError", 1)]


def test_of_equal_types_the_later_one_is_told():
    """If replicas report the same type, the later message is shown."""

    def error(time_s, message):
        return MethodError("LookupError", 2, time_s, message, "get", None, "")

    for order in ([[error(1.0, "old")], [error(2.0, "new")]], [[error(2.0, "new")], [error(1.0, "old")]]):
        (found,) = add_up(order)
        assert (found.count, found.message) == (4, "new")


def test_an_error_keeps_nothing_of_its_call_alive(env, faulty, until):
    """A recorded error keeps no argument or frame of its call alive."""
    import gc
    import weakref

    class Argument(str):
        __slots__ = ("__weakref__",)

    argument = Argument("held")
    seen = weakref.ref(argument)
    with pytest.raises(LookupError):
        faulty().fail(argument)
    del argument
    until(lambda: gc.collect() >= 0 and seen() is None)  # the worker lets the call go a moment after its caller wakes


class Batched:
    def double(self, number):
        return 2 * number

    @batch_of("double")
    def double_all(self, number):
        raise ArithmeticError("none of them")


def test_calls_that_fail_together_count_each(env):
    """Each call of a failed batch counts as an error."""
    config = ServiceDeploymentConfig(batch_size=4)
    env.register_service_with_config("batched", Batched, deployment_config=config)
    env.deploy()
    handle = env.service("batched")
    calls = [handle.submit("double", number) for number in range(4)]
    for call in calls:
        with pytest.raises(ArithmeticError):
            call.result(20)
    (error,) = env.errors("batched")
    assert (error.type, error.count) == ("ArithmeticError", 4)


class Plugin:
    @hookimpl
    def sage_register_targets(self):
        return [process_target.registration()]


@pytest.fixture
def elsewhere(environments):
    """The same service in another process."""
    env = environments("elsewhere", registry=Registry.of(sage_deploy_monitors, sage_deploy_threading, Plugin()))
    config = ServiceDeploymentConfig(target="process", threading_strategy="single", timeout=20)
    env.register_service_with_config("faulty", Faulty, deployment_config=config)
    env.deploy()
    return env


def test_what_is_raised_in_another_process_is_known_here(elsewhere):
    """Errors raised in a replica's process are recorded here."""
    with pytest.raises(LookupError):
        elsewhere.service("faulty").fail("lost")
    (error,) = elsewhere.errors("faulty")
    assert (error.type, error.message, error.method) == ("LookupError", "lost", "fail")
    assert "raise kind(text)" in error.traceback


def test_stacks_are_those_of_the_process_of_the_replica(elsewhere):
    """`stacks` shows the threads of a replica's process, even while all its slots are taken."""
    call = elsewhere.service("faulty").submit("slow")
    found = ""
    while "in slow" not in found:
        found = elsewhere.stacks("faulty", "faulty#0")
    assert "thread faulty#0" in found
    assert "MainThread" in found
    assert "pytest" not in found
    call.cancel()


def test_stacks_of_a_replica_that_is_not_there_are_refused_with_those_that_are(env, faulty):
    """`stacks` of an unknown replica is refused, with the replicas that there are."""
    faulty(replicas=2, load_balancer="round_robin")
    with pytest.raises(errors.DeployError, match="no replica 'faulty#7'; it has faulty#0, faulty#1"):
        env.stacks("faulty", "faulty#7")
    with pytest.raises(errors.ServiceNotFoundError):
        env.stacks("faulti", "faulty#0")
