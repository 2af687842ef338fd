"""The life of a service: built, warmed up, drained, stopped, each step once and where it belongs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import inspect
import logging
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import Future

import pytest

import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_local.target import LocalTarget
from sage_plugins import Environment, ServiceDeploymentConfig, ServiceTaskFactory, errors
from sage_plugins.hookspecs import hookimpl
from sage_plugins.plugins import Registry
from sage_plugins.service import ServiceFactory
from sage_plugins.values import Registration

PATIENCE = 20.0
SHORT = 0.03


def config(strategy, **fields):
    sizes = {"thread_count": 2, "thread_pool_size": 2} if strategy == "pool" else {}
    return ServiceDeploymentConfig(threading_strategy=strategy, **(sizes | fields))


EARLIER = set()


@pytest.fixture(autouse=True)
def _earlier(monkeypatch):
    EARLIER.clear()
    EARLIER.update(threading.enumerate())
    # What stop hooks get when the drain time is used up; the tests that hang inside a method need not wait so long.
    monkeypatch.setattr("sage_plugins.task._LAST_GRACE_S", 0.1, raising=False)


def ours():
    """The threads that run services of this test."""
    new = set(threading.enumerate()) - EARLIER
    return [thread.name for thread in new if thread.name.startswith(("svc", "other"))]


@pytest.fixture
def diary():
    """What happened, in order, as (step, thread)."""
    return []


@pytest.fixture
def living(diary):  # noqa: C901 - a class with every hook has many methods
    """A class with every hook, which writes them all down."""

    class Living:
        def __init__(self):
            self.note("init")

        def note(self, step):
            diary.append((step, threading.current_thread()))

        def setup(self):
            self.note("setup")

        def start_running(self):
            self.note("start_running")

        def start(self):
            self.note("start")

        def warmup(self):
            self.note("warmup")

        def method(self):
            self.note("method")

        def stop(self):
            self.note("stop")

        def cleanup(self):
            self.note("cleanup")

        def close(self):
            self.note("close")

    return Living


def steps(diary):
    return [step for step, _ in diary]


# -- hooks -------------------------------------------------------------------------------------------------------------


def test_hooks_run_once_each_in_order(deploy, strategy, living, diary):
    """init, setup, start_running, warmup, calls, stop, cleanup; `start` and `close` are not for who has the others."""
    service = deploy(strategy, living)
    assert steps(diary) == ["init", "setup", "start_running", "warmup"]
    service.handle.method()
    service.env.close()
    service.env.close()
    assert steps(diary) == ["init", "setup", "start_running", "warmup", "method", "stop", "cleanup"]


def test_start_and_close_stand_in(deploy, strategy, living, diary):
    """Without `start_running` and `cleanup` it is `start` and `close`."""
    del living.start_running, living.cleanup
    service = deploy(strategy, living)
    service.env.close()
    assert steps(diary) == ["init", "setup", "start", "warmup", "stop", "close"]


def test_hooks_are_optional(deploy, strategy):
    class Plain:
        def method(self):
            return "plain"

    service = deploy(strategy, Plain)
    assert service.handle.method() == "plain"
    service.env.close()


def test_single_runs_everything_on_its_thread(deploy, living, diary):
    """Under `single` constructor, hooks and calls all run on the worker's thread."""
    service = deploy("single", living)
    service.handle.method()
    service.env.close()
    assert len({thread for _, thread in diary}) == 1
    assert diary[0][1] is not threading.current_thread()


def test_no_strategy_builds_in_the_deploying_thread(deploy, strategy, living, diary):
    """Deploying can be given up when a constructor hangs, so constructor and start hooks run on another thread."""
    deploy(strategy, living)
    assert threading.current_thread() not in {thread for _, thread in diary}


def test_async_hooks_are_awaited(deploy, strategy, diary):
    class Living:
        async def setup(self):
            await asyncio.sleep(0)
            diary.append("setup")

        async def start(self):
            await asyncio.sleep(0)
            diary.append("start")

        async def warmup(self):
            await asyncio.sleep(0)
            diary.append("warmup")

        async def stop(self):
            await asyncio.sleep(0)
            diary.append("stop")

        async def close(self):
            await asyncio.sleep(0)
            diary.append("close")

    service = deploy(strategy, Living)
    service.env.close()
    assert diary == ["setup", "start", "warmup", "stop", "close"]


def test_async_hooks_and_methods_share_the_loop(deploy):
    """Under `single` what an async hook makes for its loop is good in async methods and in the hooks at the end."""
    ended = Future()

    class Connected:
        async def setup(self):
            self.loop = asyncio.get_running_loop()
            self.background = asyncio.ensure_future(asyncio.Event().wait())

        async def method(self):
            return asyncio.get_running_loop() is self.loop and not self.background.done()

        async def cleanup(self):
            self.background.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.background
            ended.set_result(asyncio.get_running_loop() is self.loop)

    service = deploy("single", Connected)
    assert service.handle.method()
    service.env.close()
    assert ended.result(0)


def test_stop_hook_that_raises_is_logged(deploy, strategy, diary, caplog):
    """What `stop` raises is logged; `cleanup` runs all the same and the service is stopped."""

    class Failing:
        def stop(self):
            raise RuntimeError("stop failed")

        def cleanup(self):
            diary.append("cleanup")

    service = deploy(strategy, Failing)
    with caplog.at_level(logging.ERROR, "sage_plugins"):
        service.env.close()
    assert diary == ["cleanup"]
    assert "stop failed" in caplog.text
    assert service.env.get_service_status("svc")["state"] == "stopped"


# -- context and construction ------------------------------------------------------------------------------------------


def test_context_is_there_before_the_constructor(deploy, strategy):
    """`self.ctx` is set before `__init__` runs, and `super().__init__()` need not be called."""

    class Base:
        def __init__(self):
            raise AssertionError("nobody called this")

    class Asking(Base):
        def __init__(self):  # no super().__init__()
            self.seen = (self.ctx.name, self.ctx.replica_index, self.ctx.logger.name)

        def answer(self):
            return self.seen

    assert deploy(strategy, Asking).handle.answer() == ("svc", 0, "sage.service.svc")


def test_context_is_passed_to_a_free_parameter(deploy):
    """A constructor with a free `ctx` parameter gets the context too; one that the caller filled keeps its value."""

    class Keyword:
        def __init__(self, word, *, ctx):
            self.given = (word, ctx is self.ctx)

        def answer(self):
            return self.given

    class Positional:
        def __init__(self, word, ctx=None):
            self.given = (word, ctx)

        def answer(self):
            return self.given

    class Anything:
        def __init__(self, **kwargs):
            self.given = kwargs

        def answer(self):
            return self.given

    assert deploy("single", Keyword, init={"word": "w"}).handle.answer() == ("w", True)
    word, ctx = deploy("single", Positional, "w").handle.answer()
    assert (word, ctx.name) == ("w", "svc")
    assert deploy("single", Positional, "w", "own").handle.answer() == ("w", "own")
    assert deploy("single", Positional, init={"word": "w", "ctx": None}).handle.answer() == ("w", None)
    assert deploy("single", Anything, init={"x": 1}).handle.answer() == {"x": 1}


def test_classes_of_every_make_can_be_served(deploy):
    """Slots, a `__new__` of its own, a builtin's subclass, a frozen dataclass: what Python can build can be served."""

    class Slotted:
        __slots__ = ("value",)

        def __init__(self):
            self.value = "slotted"

        def answer(self):
            return self.value

    class SlottedWithContext:
        __slots__ = ("ctx",)

        def answer(self):
            return self.ctx.name

    class OwnNew:
        def __new__(cls, value):
            made = super().__new__(cls)
            made.early = value
            return made

        def __init__(self, value):
            self.seen = (self.early, value, self.ctx.name)

        def answer(self):
            return self.seen

    class Mapping(dict):
        def __init__(self):
            super().__init__(name=self.ctx.name)

        def answer(self):
            return self["name"]

    @dataclasses.dataclass(frozen=True)
    class Frozen:
        value: int

        def answer(self):
            return self.value

    assert deploy("single", Slotted).handle.answer() == "slotted"
    assert deploy("single", SlottedWithContext).handle.answer() == "svc"
    assert deploy("single", OwnNew, 5).handle.answer() == (5, 5, "svc")
    assert deploy("single", Mapping).handle.answer() == "svc"
    assert deploy("single", Frozen, 3).handle.answer() == 3


@pytest.mark.parametrize("constructor", ["with", "without"])
def test_setting_given_to_the_constructor_gets_a_hint(env, constructor):
    """A constructor's TypeError over the name of a configuration field says where that belongs."""

    class Plain:
        if constructor == "with":

            def __init__(self, word="word"):
                self.word = word

        def method(self):
            pass

    env.register_service("svc", Plain, thread_count=4)
    with pytest.raises(errors.DeployError) as caught:
        env.deploy()
    assert isinstance(caught.value.__cause__, TypeError)
    notes = "\n".join(getattr(caught.value.__cause__, "__notes__", []))
    assert "'thread_count' is a deployment setting" in notes
    assert "register_service_with_config" in notes


def test_other_type_errors_get_no_hint(env):
    """An unknown argument that is no setting, and a setting's name that the class does take, are left alone."""

    class Timed:
        def __init__(self, timeout):
            raise TypeError(f"bad timeout {timeout}")

    env.register_service("svc", Timed, timeout=4)
    with pytest.raises(errors.DeployError, match="bad timeout 4") as caught:
        env.deploy()
    assert not getattr(caught.value.__cause__, "__notes__", [])


# -- a start that fails ------------------------------------------------------------------------------------------------


def test_constructor_that_raises_fails_the_deployment(environments, strategy):
    """DeployError comes from the original exception and says which replica, what and where."""

    class Failing:
        def __init__(self):
            raise ValueError("no database")  # here

    env = environments()
    env.register_service_with_config("svc", Failing, deployment_config=config(strategy))
    with pytest.raises(errors.DeployError) as caught:
        env.deploy()
    lines, first = inspect.getsourcelines(Failing)
    line = first + next(number for number, text in enumerate(lines) if "# here" in text)
    text = str(caught.value)
    assert "while constructing service 'svc' replica 0: ValueError: no database" in text
    assert f"{__file__}:{line}" in text
    assert isinstance(caught.value.__cause__, ValueError)
    assert (caught.value.service, caught.value.replica) == ("svc", "svc#0")
    assert ours() == []


@pytest.mark.parametrize("hook", ["setup", "start_running", "warmup"])
def test_start_hook_that_raises_fails_the_deployment(environments, strategy, hook):
    env = environments()

    def fail(_):
        raise ValueError("hook failed")

    failing = type("Failing", (), {hook: fail})
    env.register_service_with_config("svc", failing, deployment_config=config(strategy))
    with pytest.raises(errors.DeployError, match="hook failed"):
        env.deploy()
    assert ours() == []


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_constructor_that_exits_fails_the_deployment(environments, strategy, kind):
    """SystemExit in a constructor is a failed start, not the end of a thread that nobody notices."""

    class Leaving:
        def __init__(self):
            raise kind("leaving")

    env = environments()
    env.register_service_with_config("svc", Leaving, deployment_config=config(strategy))
    with pytest.raises(errors.DeployError, match=kind.__name__):
        env.deploy()


def test_constructor_error_without_text_fails_the_deployment(env):
    """An exception that cannot be printed is reported by its type."""

    class UnprintableError(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    class Failing:
        def __init__(self):
            raise UnprintableError

    env.register_service("svc", Failing)
    with pytest.raises(errors.DeployError, match="UnprintableError"):
        env.deploy()


def test_deployment_is_all_or_nothing(environments, strategy, living, diary):
    """When one service fails to start, those that had started are stopped, and deploying again starts anew."""
    fails = [True]

    class Failing:
        def __init__(self):
            if fails.pop() if fails else False:
                raise ValueError("first time")

    env = environments()
    env.register_service_with_config("svc-first", living, deployment_config=config(strategy))
    env.register_service_with_config("svc-second", Failing, deployment_config=config(strategy))
    env.register_service_with_config("svc-third", living, deployment_config=config(strategy))
    with pytest.raises(errors.DeployError, match="first time"):
        env.deploy()
    assert ours() == []
    assert steps(diary).count("init") == steps(diary).count("cleanup")
    env.deploy()
    assert env.service("svc-first").method() is None
    assert env.service("svc-third").method() is None


def test_plan_error_starts_nothing(environments, living, diary):
    """A service that cannot be composed stops the deployment before anything is built."""
    env = environments()
    env.register_service("svc-first", living)
    env.register_service_with_config(
        "svc-second", living, deployment_config=ServiceDeploymentConfig(threading_strategy="nowhere")
    )
    with pytest.raises(errors.UnknownPluginError, match="svc-second"):
        env.deploy()
    assert (diary, ours()) == ([], [])


def test_all_or_nothing_holds_for_services_started_by_a_constructor(env, gate, until, diary):
    """A service that another's constructor called, in a deployment that fails, does not stay up either."""

    class Calling:
        def __init__(self):
            self.ctx.service("svc-called").method()
            gate()

        def stop(self):
            diary.append("calling stopped")

    class Failing:
        def __init__(self):
            until(lambda: gate.entered)
            gate.open()
            raise ValueError("fails late")

    class Called:
        def method(self):
            pass

        def stop(self):
            diary.append("called stopped")

    env.register_service("svc-calling", Calling)
    env.register_service("svc-failing", Failing)
    env.register_service("svc-called", Called)
    with pytest.raises(errors.DeployError, match="fails late"):
        env.deploy()
    assert ours() == []
    assert "called stopped" in diary


@pytest.mark.leaves_threads("a constructor that hangs cannot be stopped", prefix="svc")
def test_constructor_that_hangs_fails_the_deployment(environments, strategy):
    """After `startup_timeout` deploying ends with DeployError; the thread is abandoned."""
    hang = threading.Event()

    class Hanging:
        def __init__(self):
            hang.wait()

    env = environments()
    env.register_service_with_config(
        "svc", Hanging, deployment_config=config(strategy, startup_timeout=SHORT, drain_timeout=0)
    )
    with pytest.raises(errors.DeployError, match=r"svc#0 not ready after 0\.03 s"):
        env.deploy()
    assert not hang.is_set()
    hang.set()


def test_time_of_deploy_beats_the_configuration(env, gate):
    """`deploy(timeout=)` bounds the wait for readiness."""

    class Hanging:
        def __init__(self):
            gate()

    env.register_service("svc", Hanging)
    with pytest.raises(errors.DeployError, match=r"not ready after 0\.03 s"):
        env.deploy(timeout=SHORT)
    gate.open()


def test_instance_that_is_ready_too_late_is_cleaned_up(environments, strategy, gate, diary, until):
    """A constructor that ends after its service was given up leaves an instance behind: that is stopped, once."""

    class Late:
        def __init__(self):
            gate()

        def cleanup(self):
            diary.append("cleanup")

    env = environments()
    env.register_service_with_config("svc", Late, deployment_config=config(strategy, startup_timeout=SHORT))
    with pytest.raises(errors.DeployError):
        env.deploy()
    gate.open()
    until(lambda: not ours())
    assert diary == ["cleanup"]


# -- lazy deployment ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["call", "submit", "acall"])
def test_first_call_deploys(environments, strategy, living, diary, verb):
    """A handle starts nothing; the first call by any verb does."""
    env = environments()
    env.register_service_with_config("svc", living, deployment_config=config(strategy))
    handle = env.service("svc")
    assert (diary, ours()) == ([], [])
    if verb == "acall":
        asyncio.run(handle.acall("method"))
    else:
        _ = handle.call("method") if verb == "call" else handle.submit("method").result(PATIENCE)
    assert steps(diary) == ["init", "setup", "start_running", "warmup", "method"]


def test_first_calls_from_many_threads_build_once(environments, strategy, living, diary, in_thread):
    """However many threads make the first call, there is one construction."""
    env = environments()
    env.register_service_with_config("svc", living, deployment_config=config(strategy))
    start = threading.Barrier(8)

    def first(_):
        start.wait(PATIENCE)
        env.service("svc").method()

    for each in [in_thread(first, number) for number in range(8)]:
        each.result(PATIENCE)
    assert steps(diary).count("init") == 1
    assert steps(diary).count("method") == 8


def test_first_call_gets_the_constructor_s_error(environments, strategy):
    """A first call whose service cannot start raises DeployError; a later one tries again."""
    fails = [True]

    class Failing:
        def __init__(self):
            if fails:
                fails.pop()
                raise ValueError("first time")

        def method(self):
            return "second time"

    env = environments()
    env.register_service_with_config("svc", Failing, deployment_config=config(strategy))
    handle = env.service("svc")
    with pytest.raises(errors.DeployError, match="first time"):
        handle.method()
    assert ours() == []
    assert handle.method() == "second time"


def test_first_call_is_bounded_by_startup_timeout(environments, gate):
    """A first call is not held for ever by a constructor that hangs, not even with `timeout=None`."""

    class Hanging:
        def __init__(self):
            gate()

        def method(self):
            pass

    env = environments()
    env.register_service_with_config("svc", Hanging, deployment_config=config("single", startup_timeout=SHORT))
    with pytest.raises(errors.DeployError, match="not ready"):
        env.service("svc").with_options(timeout=None).method()
    gate.open()


# -- drain and close ---------------------------------------------------------------------------------------------------


def test_close_finishes_accepted_calls(deploy, strategy, occupy, queued, in_thread, until):  # noqa: PLR0913, PLR0917 - fixtures
    """Draining: running and queued calls finish, new ones get ServiceStoppedError."""
    service = deploy(strategy)
    occupied = occupy(service)
    waiting = [queued(service, "echo", number) for number in range(3)]
    closing = in_thread(service.env.close)
    until(lambda: service.env._closed)
    refused = errors.ServiceStoppedError

    def is_refused():
        # The very first moment of closing is not seen from here.
        try:
            service.handle.with_options(timeout=0.005).submit("echo")
        except errors.CallTimeoutError:
            return False
        except refused:
            return True
        return False

    until(is_refused)
    with pytest.raises(refused, match="svc"):
        service.handle.call("echo")
    with pytest.raises(refused):
        asyncio.run(service.handle.acall("echo"))
    assert not closing.done()
    occupied.open()
    closing.result(PATIENCE)
    assert [each.result(PATIENCE) for each in waiting] == [0, 1, 2]
    assert ours() == []


def test_closed_environment_refuses(deploy, strategy):
    """After `close` every way to call and to register raises ServiceStoppedError."""
    service = deploy(strategy)
    service.env.close()
    for attempt in (
        service.handle.echo,
        lambda: service.handle.submit("echo"),
        lambda: asyncio.run(service.handle.acall("echo")),
        lambda: service.handle.with_options(timeout=1).echo(),
        lambda: service.env.service("svc").echo(),
        lambda: service.env.call_service("svc"),
        lambda: service.env.register_service("other", object),
        lambda: service.env.task("svc").handle.echo(),  # noqa: PLW0108 - finding the task is part of it
    ):
        with pytest.raises(errors.ServiceStoppedError):
            attempt()
    assert ours() == []


def test_closed_environment_deploys_nothing(env, living, diary):
    """A handle made before `close` does not bring the service to life after it, whatever was looked at before."""
    env.register_service("svc", living)
    handle, status = env.service("svc"), env.get_service_status("svc")
    assert status["state"] == "pending"
    task = env.task("svc")
    env.close()
    for attempt in (handle.method, task.handle.method, env.service_factories and (lambda: env.service("svc").method())):
        with pytest.raises(errors.ServiceStoppedError):
            attempt()
    with pytest.raises((errors.ServiceStoppedError, errors.DeployError)):
        env.deploy()
    assert (diary, ours()) == ([], [])


def test_close_while_deploying(env, gate, in_thread):
    """`close` from another thread ends a deployment that is under way, with DeployError there and nothing left."""

    class Slow:
        def __init__(self):
            gate()

    class Next:
        def __init__(self):
            pass

    env.register_service("svc-slow", Slow)
    env.register_service("svc-next", Next)
    deploying = in_thread(env.deploy)
    gate.wait_entered()
    closing = in_thread(env.close)
    with pytest.raises((errors.DeployError, errors.ServiceStoppedError)):
        deploying.result(PATIENCE / 4)
    closing.result(PATIENCE / 4)
    assert not gate._open.done(), "the constructor hangs still"
    gate.open()


def test_close_while_a_replica_is_being_started(environments, gate, in_thread, probe, until):
    """A replica that its target is just starting when `close` comes is stopped too."""

    class Held(LocalTarget):
        def start(self, *args):
            gate()
            return super().start(*args)

    class Plugin:
        @hookimpl
        def sage_register_targets(self):
            return [Registration("held", lambda _: Held(), "Starts replicas when it may")]

    registry = Registry.of(sage_deploy_local, sage_deploy_threading, sage_deploy_monitors, Plugin())
    env = environments("test", registry=registry)
    env.register_service_with_config("svc", probe, deployment_config=ServiceDeploymentConfig(target="held"))
    deploying = in_thread(env.deploy)
    gate.wait_entered()
    closing = in_thread(env.close)
    concurrent.futures.wait([closing], 5 * SHORT)  # it may wait until the target has done its work, or not
    gate.open()
    closing.result(PATIENCE)
    assert isinstance(deploying.exception(PATIENCE), (errors.DeployError, errors.ServiceStoppedError))
    until(lambda: not ours())


def test_drain_timeout_ends_the_rest(deploy, threaded, occupy):
    """What has not finished when `drain_timeout` is over ends with ServiceStoppedError, running and queued alike."""
    service = deploy(threaded, drain_timeout=SHORT, timeout=None)
    occupied = occupy(service)
    waiting = service.handle.submit("echo")
    service.env.close()
    with pytest.raises(errors.ServiceStoppedError, match="was not run"):
        waiting.result(0)
    assert service.metrics.outcomes.get("stopped") == 1 + service.slots
    occupied.open()


def test_running_call_ended_by_drain_timeout(deploy, threaded, gate):
    """The error of a call that was cut off says that it may have had its effect; the method runs on to its end."""
    service = deploy(threaded, timeout=None)
    running = service.handle.submit("run", gate)
    gate.wait_entered()
    service.env.close(drain_timeout=0)
    with pytest.raises(errors.ServiceStoppedError, match="still running") as caught:
        running.result(0)
    assert caught.value.replica == "svc#0"
    gate.open()


def test_close_does_not_wait_for_abandoned_calls(deploy, threaded, gate, until, in_thread):
    """A method whose caller was told long ago holds up `close` only for the stop hooks."""
    service = deploy(threaded, drain_timeout=1000, timeout=1000)
    with pytest.raises(errors.CallTimeoutError):
        service.handle.with_options(timeout=SHORT).call("run", gate)
    in_thread(service.env.close).result(PATIENCE / 4)
    assert not gate._open.done(), "the method hangs still"
    gate.open()
    until(lambda: not ours())


def test_stop_hooks_of_the_others_run_beside_a_stuck_replica(deploy, gates, until):
    """Each replica gets its time to stop, even if another one is stuck."""
    stuck = gates()
    slow = gates()
    diary = []

    class Service:
        def hang(self):
            stuck()

        def index(self):
            return self.ctx.replica_index

        def stop(self):
            diary.append(("begins", self.ctx.replica_index))
            if self.ctx.replica_index == 0:
                slow.open()
                threading.Event().wait(SHORT)
            diary.append(("ends", self.ctx.replica_index))

    balanced = {"replicas": 2, "load_balancing": True, "load_balancer": "round_robin"}
    service = deploy("single", Service, timeout=1000, **balanced)
    assert service.handle.index() == 0
    with pytest.raises(errors.CallTimeoutError):
        service.handle.with_options(timeout=SHORT).hang()
    service.env.close(drain_timeout=0)
    assert diary == [("begins", 0), ("ends", 0)]
    assert [name for name in ours() if name.startswith("svc#0")] == []
    stuck.open()
    until(lambda: not ours())


def test_close_of_a_service_that_drains_waits_for_its_calls_only(deploy, threaded, occupy, in_thread, until):
    service = deploy(threaded, drain_timeout=1000)
    task = service.env.task(service.name)
    gate = occupy(service)
    stopping = in_thread(task.stop)
    until(lambda: task.state == "draining")
    closing = in_thread(service.env.close)
    until(lambda: service.env._closed)
    gate.open()
    stopping.result(PATIENCE)
    closing.result(PATIENCE)


def test_close_is_idempotent_from_many_threads(deploy, strategy, living, diary, in_thread):
    """However often and from wherever: the hooks run once, and every `close` returns when the service is stopped."""
    service = deploy(strategy, living)
    start = threading.Barrier(6)

    def close():
        start.wait(PATIENCE)
        service.env.close()
        return service.env.get_service_status("svc")["state"]

    assert {each.result(PATIENCE) for each in [in_thread(close) for _ in range(6)]} == {"stopped"}
    assert steps(diary)[4:] == ["stop", "cleanup"]


@pytest.mark.parametrize("verb", ["call", "submit", "acall"])
def test_close_from_within_a_service_s_method(environments, strategy, probe, verb, until):
    """A method may close its own environment: its call finishes, then the service stops."""
    env = environments()
    env.register_service_with_config("svc", probe, deployment_config=config(strategy))
    handle = env.service("svc")
    if verb == "acall":
        asyncio.run(handle.acall("run", env.close))
    else:
        _ = handle.call("run", env.close) if verb == "call" else handle.submit("run", env.close).result(PATIENCE)
    env.close()
    assert env.get_service_status("svc")["state"] == "stopped"
    until(lambda: not ours())


def test_close_from_within_an_inner_call(environments, strategy, probe, until):
    """So may a method that another service's method called: no drain time is waited for."""
    env = environments()

    class Outer:
        def ask(self):
            self.ctx.call_service("svc", env.close, method="run")
            return "answered"

    settings = config(strategy, drain_timeout=1000, timeout=1000)
    env.register_service_with_config("other", Outer, deployment_config=settings)
    env.register_service_with_config("svc", probe, deployment_config=settings)
    env.deploy()
    assert env.service("other").ask() == "answered"
    env.close()
    until(lambda: not ours())


def test_inner_calls_are_served_while_draining(env, gates, in_thread, until):
    """An accepted call may go on calling other services while its environment closes."""

    class Calling:
        def ask(self, gate, other):
            gate()
            return self.ctx.call_service(other, method="answer")

        def answer(self):
            return "answered"

    for name in ("svc-a", "svc-b", "svc-c"):
        env.register_service(name, Calling)
    env.deploy()
    held = {name: gates() for name in ("svc-a", "svc-b")}
    first = env.service("svc-a").submit("ask", held["svc-a"], "svc-c")
    second = env.service("svc-b").submit("ask", held["svc-b"], "svc-c")
    for gate in held.values():
        gate.wait_entered()
    closing = in_thread(env.close)
    until(lambda: env._closed)
    for gate in held.values():
        gate.open()
    assert first.result(PATIENCE) == "answered"
    assert second.result(PATIENCE) == "answered"
    closing.result(PATIENCE)


def test_async_with(strategy, living, diary):
    """`async with` deploys without blocking the loop, and closes at the end."""

    async def main():
        async with Environment("test") as env:
            env.register_service_with_config("svc", living, deployment_config=config(strategy))
            await env.adeploy()
            await env.service("svc").acall("method")
            return env

    env = asyncio.run(main())
    assert steps(diary)[-3:] == ["method", "stop", "cleanup"]
    assert env.get_service_status("svc")["state"] == "stopped"
    assert ours() == []


def test_with_closes_after_an_exception(strategy, living, diary):
    """`with` closes whatever happens inside."""

    def fail_inside():
        with Environment("test") as env:
            env.register_service_with_config("svc", living, deployment_config=config(strategy))
            env.deploy()
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert steps(diary)[-2:] == ["stop", "cleanup"]
    assert ours() == []


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_task_lives_outside_environments(strategy, living, diary):
    """A task is built by `start_running` and ends by `stop`; `stop` before that is a no-op, `cleanup` is idempotent."""
    factory = ServiceTaskFactory(ServiceFactory("svc", living), config(strategy))
    task = factory.create_service_task()
    task.stop()
    assert (task.state, diary, ours()) == ("pending", [], [])
    task.start_running()
    task.start_running()
    assert task.state == "ready"
    task.handle.method()
    task.cleanup()
    task.cleanup()
    task.stop()
    assert task.state == "stopped"
    assert steps(diary) == ["init", "setup", "start_running", "warmup", "method", "stop", "cleanup"]
    assert ours() == []


def test_task_without_an_environment_finds_no_services(living):
    task = ServiceTaskFactory(ServiceFactory("svc", living)).create_service_task()
    with pytest.raises(errors.ServiceNotFoundError, match="outside any environment"):
        task.find_service("other")


# -- the end of the interpreter ----------------------------------------------------------------------------------------

PROGRAM = """
    import asyncio, contextlib, threading
    from sage_plugins import Environment, ServiceDeploymentConfig, errors

    entered = threading.Event()

    class Service:
        def hang(self):
            entered.set()
            threading.Event().wait()

        async def ahang(self):
            entered.set()
            await asyncio.Event().wait()

        def fine(self):
            return "fine"

        def cleanup(self):
            print("cleanup", flush=True)

    env = Environment("test")
    env.register_service_with_config(
        "svc", Service, deployment_config=ServiceDeploymentConfig(threading_strategy={strategy!r}, timeout={timeout})
    )
    handle = env.service("svc")
    print(handle.fine(), flush=True)

    def hang(method):
        if {strategy!r} == "inline":
            threading.Thread(target=handle.call, args=(method,), daemon=True).start()
        else:
            handle.submit(method)
        entered.wait()

    def quietly():
        with contextlib.suppress(errors.ServiceStoppedError):
            handle.hang()

    async def give_up(method):
        task = asyncio.ensure_future(handle.acall(method))
        await asyncio.to_thread(entered.wait)
        task.cancel()
        await asyncio.wait([task])

    {ending}
    print("end", flush=True)
"""

ENDING_STRATEGIES = ("single", "multi", "pool", "async", "inline")
ENDINGS = {
    "idle": "pass",
    "stuck": 'hang("hang")',
    "stuck async": 'hang("ahang")',
    "stuck acall": 'asyncio.run(give_up("hang"))',
    "waiting caller": 'hang("hang"); threading.Thread(target=quietly, daemon=True).start()',
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """How each program ends, all of them run at the same time: {(strategy, ending): (exit code, output, errors)}."""
    folder = tmp_path_factory.mktemp("ends")
    programs = {}
    for strategy in ENDING_STRATEGIES:
        for ending, source in ENDINGS.items():
            path = folder / f"{strategy}_{ending.replace(' ', '_')}.py"
            text = textwrap.dedent(PROGRAM).format(strategy=strategy, ending=source, timeout=1000.0)
            path.write_text(text, encoding="utf-8")
            command = [sys.executable, "-W", "error", str(path)]
            programs[strategy, ending] = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
    results = {}
    for key, program in programs.items():
        try:
            out, err = program.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            program.kill()
            out, err = program.communicate()
            err += "\n(did not end)"
        results[key] = program.returncode, out.splitlines(), err
    return results


@pytest.mark.parametrize("strategy", ENDING_STRATEGIES)
@pytest.mark.parametrize("ending", ENDINGS)
def test_interpreter_exits_without_close(ends, strategy, ending):
    """A forgotten `close` never keeps the interpreter from exiting, not even with a method that hangs."""
    code, out, err = ends[strategy, ending]
    assert (code, err) == (0, "")
    assert out[:2] == ["fine", "end"]
    if ending == "idle":
        assert out == ["fine", "end", "cleanup"], "the service was stopped"


# -- fork --------------------------------------------------------------------------------------------------------------

FORKED = """
    import os, threading, warnings
    from sage_plugins import Environment, ServiceDeploymentConfig, errors
    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of every fork beside threads

    class Service:
        def run(self, function):
            return function()

        def hang(self, seconds):
            threading.Event().wait(seconds)

    class Other:
        def fine(self):
            return "fine"

    def failing(attempt):
        try:
            attempt()
        except errors.ForkedRuntimeError as error:
            return "ForkedRuntimeError" if "fork" in str(error) else str(error)
        except BaseException as error:
            return repr(error)
        return "no error"

    env = Environment("test")
    env.register_service_with_config(
        "svc", Service, deployment_config=ServiceDeploymentConfig(threading_strategy={strategy!r})
    )
    env.deploy()
    used, unused = env.service("svc"), env.service("svc")
    used.run(int)
    {before}
    child = os.fork()
    if child == 0:
        print(failing(lambda: used.run(int)))
        print(failing(lambda: used.submit("run", int)))
        print(failing(lambda: used.with_options(timeout=1).run(int)))
        print(failing(lambda: unused.run(int)))
        print(failing(lambda: env.service("svc").run(int)))
        print(failing(lambda: env.call_service("svc", int, method="run")))
        with Environment("child") as own:
            own.register_service("other", Other)
            own.register_service("slow", Service)
            print(own.service("other").fine())
            try:
                own.service("slow").with_options(timeout=0.02).hang(0.05)
            except errors.CallTimeoutError as error:
                print(error.stage)
        print("child ends", flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    {after}
    print(used.run(lambda: "parent lives"), os.waitstatus_to_exitcode(status))
    env.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform does not fork")
@pytest.mark.parametrize("held", [False, True], ids=["quiet", "busy"])
def test_fork(program, strategy, held):
    """In a forked child the parent's services raise ForkedRuntimeError, own ones work; the parent does not notice."""
    before = after = "pass"
    if held:
        # Another thread is in the middle of giving up a call, and of using the environment, when the process forks.
        before = (
            "import sage_plugins.call as module; held = threading.Event(); go = threading.Event()\n"
            "    locks = [each for each in vars(module).values() if type(each) is type(threading.Lock())]\n"
            "    def hold():\n"
            "        for lock in locks: lock.acquire()\n"
            "        held.set(); go.wait()\n"
            "        for lock in locks: lock.release()\n"
            "    threading.Thread(target=hold).start(); held.wait()"
        )
        after = "go.set()"
    text = textwrap.dedent(FORKED).format(
        strategy=strategy, before=textwrap.dedent(before.replace("\n    ", "\n")), after=after
    )
    done = subprocess.run(program(text), capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        *["ForkedRuntimeError"] * 6,
        "fine",
        "run",
        "child ends",
        "parent lives 0",
    ]
