"""
Construction, deployments that fail, closing at any moment, and the end of the interpreter.

The strategies' suite covers the rest of a service's life.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import gc
import inspect
import logging
import math
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from functools import partial
from types import FunctionType

import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_local.target import LocalTarget
from sage_plugins import Environment, ServiceDeploymentConfig, ServiceTaskFactory, batch_of, errors
from sage_plugins.deployment.replicas.waiting import raised_at
from sage_plugins.hookspecs import hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.service.factory import ServiceFactory
from sage_plugins.values import Registration

FIRST_PARTY = (sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading)

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
    # Stop hooks get this long once `drain_timeout` is used up. Short, because some tests hang in a method.
    monkeypatch.setattr("sage_plugins.deployment.replicas.stopper._LAST_GRACE_S", 0.1, raising=False)


def ours():
    """The names of the threads that run this test's services."""
    new = set(threading.enumerate()) - EARLIER
    return [thread.name for thread in new if thread.name.startswith("svc")]


@pytest.fixture
def diary():
    """What happened, in order, as (step, thread)."""
    return []


@pytest.fixture
def living(diary):  # noqa: C901 - a class with every hook has many methods
    """A class with every hook, which records each call."""

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


def test_stop_hook_that_raises_is_logged(deploy, strategy, diary, caplog):
    """If `stop` raises, the error is logged, `cleanup` still runs and the service is stopped."""

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
    """A constructor's `ctx` parameter gets the context, unless the caller gave it a value."""

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
    """Classes with slots, their own `__new__`, a builtin base or a frozen dataclass can be services."""

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


def test_setting_given_to_the_constructor_gets_a_hint(env):
    """If a constructor rejects an argument named like a deployment setting, its TypeError says where that belongs."""

    class Plain:
        def __init__(self, **settings):  # its signature accepts anything
            self.set(**settings)

        def set(self, word="word"):
            self.word = word

    env.register_service("svc", Plain, thread_count=4)
    with pytest.raises(errors.DeployError) as caught:
        env.deploy()
    assert isinstance(caught.value.__cause__, TypeError)
    notes = "\n".join(getattr(caught.value.__cause__, "__notes__", []))
    assert "'thread_count' is a deployment setting" in notes
    assert "register_service_with_config" in notes


def test_other_type_errors_get_no_hint(env):
    """A TypeError about a setting's name that the constructor does accept gets no hint."""

    class Timed:
        def __init__(self, timeout):
            raise TypeError(f"bad timeout {timeout}")

    env.register_service("svc", Timed, timeout=4)
    with pytest.raises(errors.DeployError, match="bad timeout 4") as caught:
        env.deploy()
    assert not getattr(caught.value.__cause__, "__notes__", [])


# -- a start that fails ------------------------------------------------------------------------------------------------


def test_constructor_that_raises_fails_the_deployment(environments, strategy):
    """A constructor that raises fails the deployment with a DeployError that says which replica, what and where."""

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


def test_constructor_without_its_argument_names_no_line_of_ours(environments, strategy):
    """If the traceback has only frames of sage-deploy, the error names no line."""

    class Needy:
        __signature__ = inspect.Signature()  # so that the check of arguments before the start cannot find the mistake

        def __init__(self, path):
            """Not called."""

    env = environments()
    env.register_service_with_config("svc", Needy, deployment_config=config(strategy))
    with pytest.raises(errors.DeployError) as caught:
        env.deploy()
    text = str(caught.value)
    assert text.endswith("__init__() missing 1 required positional argument: 'path'"), text


@pytest.mark.parametrize(
    "module",
    ["sage_plugins.host.host", "sage_deploy_threading.workers", "sage_deploy_local", "sage_deploy_remote.link"],
)
def test_frames_of_our_packages_are_not_where_an_error_was_raised(module):
    """The place of an error is the innermost frame outside sage-deploy's packages, even if these were called back."""

    def fail():
        raise LookupError  # where it fails

    def in_module(name):
        return FunctionType(fail.__code__, {"__name__": name, "LookupError": LookupError})

    def call_back():
        ours()  # where it calls back

    def line_of(comment):
        lines, first = inspect.getsourcelines(test_frames_of_our_packages_are_not_where_an_error_was_raised)
        return first + next(number for number, text in enumerate(lines) if text.rstrip().endswith(f"# {comment}"))

    ours = in_module(module)
    with pytest.raises(LookupError) as caught:
        call_back()
    assert raised_at(caught.value) == f"{__file__}:{line_of('where it calls back')}"
    with pytest.raises(LookupError) as caught:
        in_module(f"my_{module}")()
    assert raised_at(caught.value) == f"{__file__}:{line_of('where it fails')}"


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


def test_plan_error_starts_nothing(environments, living, diary):
    """If one service has an invalid configuration, `deploy` starts none."""
    env = environments()
    env.register_service("svc-first", living)
    env.register_service_with_config(
        "svc-second", living, deployment_config=ServiceDeploymentConfig(threading_strategy="nowhere")
    )
    with pytest.raises(errors.UnknownPluginError, match="svc-second"):
        env.deploy()
    assert (diary, ours()) == ([], [])


def test_all_or_nothing_holds_for_services_started_by_a_constructor(env, gate, until, diary):
    """If a deployment fails, services that a constructor started with a call are stopped too."""

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


def test_time_of_deploy_beats_the_configuration(env, gate):
    """`deploy(timeout=)` limits the wait for readiness, whatever the configuration says."""

    class Hanging:
        def __init__(self):
            gate()

    env.register_service("svc", Hanging)
    with pytest.raises(errors.DeployError, match=r"not ready after 0\.03 s"):
        env.deploy(timeout=SHORT)
    gate.open()


# -- lazy deployment ---------------------------------------------------------------------------------------------------


def test_first_call_is_bounded_by_startup_timeout(environments, gate):
    """A first call waits at most `startup_timeout` for a constructor that hangs, even with `timeout=None`."""

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


def test_closed_environment_deploys_nothing(env, living, diary):
    """A handle made before `close` does not start the service after it."""
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
    """
    `close` from another thread ends a running deployment with an error, without waiting for a hanging constructor.
    """

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
    """If a target is just starting a replica when `close` comes, that replica is stopped too."""

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
    concurrent.futures.wait([closing], 5 * SHORT)  # it may wait for the target, or not
    gate.open()
    closing.result(PATIENCE)
    assert isinstance(deploying.exception(PATIENCE), (errors.DeployError, errors.ServiceStoppedError))
    until(lambda: not ours())


@pytest.mark.parametrize("member", ["begin_stop", "stop"])
def test_replica_that_cannot_be_stopped_keeps_no_other_from_stopping(environments, diary, member, caplog):
    """
    If a replica cannot be stopped, the error is logged.

    Other replicas and services stop, and the target is closed.
    """

    class Failing(LocalTarget):
        def start(self, spec, *args):
            replica = super().start(spec, *args)
            if spec.index == 1:
                left.append(replica.stop)
                setattr(replica, member, lambda *_: 1 / 0)
            return replica

        def close(self):
            diary.append("target")

    class Plugin:
        @hookimpl
        def sage_register_targets(self):
            return [Registration("failing", lambda _: Failing(), "Cannot stop", capabilities=frozenset({"in_process"}))]

    class Service:
        def stop(self):
            diary.append(f"{self.ctx.name}#{self.ctx.replica_index}")

    left, events = [], []
    registry = Registry.of(*FIRST_PARTY, Plugin())
    env = environments("test", registry=registry, on_event=events.append)
    env.register_service("other", Service)
    fields = {"target": "failing", "replicas": 3, "load_balancing": True}
    env.register_service_with_config("svc", Service, deployment_config=ServiceDeploymentConfig(**fields))
    env.deploy()
    env.close()
    assert {"svc#0", "svc#2", "other#0", "target"} <= set(diary)
    assert env.get_service_status("svc")["state"] == "stopped"
    assert "replica svc#1 could not be stopped" in caplog.text
    if member == "stop":
        told = [event.reason for event in events if (event.kind, event.replica) == ("replica_stopped", "svc#1")]
        assert told == ["stopping it failed: ZeroDivisionError: division by zero"]
    left.pop()(PATIENCE)


@pytest.mark.parametrize("begin", [True, False])
def test_replica_may_be_stopped_by_several_threads_at_once(environments, gate, in_thread, begin):
    """
    Several threads can stop a replica at once, and its hooks run once.

    `begin_stop` returns at once; each `stop` waits for the hooks.
    """
    started, hooks = [], []

    class Kept(LocalTarget):
        def start(self, *args):
            started.append(super().start(*args))
            return started[-1]

    class Plugin:
        @hookimpl
        def sage_register_targets(self):
            return [Registration("kept", lambda _: Kept(), "Shows", capabilities=frozenset({"in_process"}))]

    class Service:
        def stop(self):
            hooks.append("begins")
            gate()
            hooks.append("ends")

    env = environments("test", registry=Registry.of(*FIRST_PARTY, Plugin()))
    env.register_service_with_config("svc", Service, deployment_config=ServiceDeploymentConfig(target="kept"))
    env.deploy()
    (replica,) = started
    if begin:
        replica.begin_stop()
    stopping = [in_thread(replica.stop, PATIENCE) for _ in range(3)]
    gate.wait_entered()
    replica.begin_stop()
    assert not any(each.done() for each in stopping)
    gate.open()
    assert [each.result(PATIENCE) for each in stopping] == [0, 0, 0]
    assert hooks == ["begins", "ends"]


def test_stop_hooks_of_the_others_run_beside_a_stuck_replica(deploy, gates, until):
    """A stuck replica does not take the time in which the others run their stop hooks."""
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
    """`close` of a service that is draining waits only for its running calls."""
    service = deploy(threaded, drain_timeout=1000)
    task = service.env.task(service.name)
    gate = occupy(service)
    stopping = in_thread(task.stop)
    until(lambda: task.state == "draining")
    closing = in_thread(service.env.close)
    until(lambda: service.env._services.closed)
    gate.open()
    stopping.result(PATIENCE)
    closing.result(PATIENCE)


@pytest.mark.parametrize("seconds", ["5", math.nan, True])
def test_drain_timeout_that_is_no_number_stops_nothing(deploy, threaded, seconds):
    """A drain timeout that is no number raises TypeError, and the service goes on."""
    service = deploy(threaded)
    for stop in (service.env.close, partial(service.env.drain, service.name), service.env.task(service.name).stop):
        with pytest.raises(TypeError, match="must be a number of seconds, or None"):
            stop(seconds)
    assert service.handle.echo(1) == 1


@pytest.mark.parametrize("seconds", [math.inf, 1e300, 10**400], ids=["inf", "float", "int"])
def test_drain_timeout_without_end_waits_for_the_calls(deploy, occupy, in_thread, until, seconds):
    """A drain timeout may be infinite, or longer than Python can wait for a lock."""
    service = deploy("single")
    gate = occupy(service)
    draining = in_thread(service.env.drain, service.name, seconds)
    until(lambda: service.env.task(service.name).state == "draining")
    closing = in_thread(service.env.close, seconds)
    gate.open()
    draining.result(PATIENCE)
    closing.result(PATIENCE)
    assert ours() == []


def test_event_listener_may_close_while_a_service_stops(environments, in_thread):
    """An event listener may close the environment whatever is reported, also in the thread that stops a service."""
    heard = []

    def listener(event):
        heard.append(event.kind)
        if event.kind in {"replica_draining", "replica_stopped"}:
            env.close()

    env = environments("test", on_event=listener)
    env.register_service("svc", list)
    env.deploy()
    in_thread(env.drain, "svc").result(PATIENCE)
    assert heard[-1] == "replica_stopped"
    assert ours() == []


def test_replica_that_has_stopped_keeps_no_instance(deploy, strategy):
    """The instance of a replica that has stopped is freed, though the service, its environment and handles live on."""
    made = []

    class Large:
        def __init__(self):
            made.append(weakref.ref(self))

        def get(self, key):
            return key

        @batch_of("get")
        def get_many(self, keys):
            return keys

        def echo(self, value):
            return value

    def number_alive():
        gc.collect()
        return sum(each() is not None for each in made)

    service = deploy(strategy, Large, replicas=3, batch_size=2)
    assert [service.handle.get(1), service.handle.echo(2), number_alive()] == [1, 2, 3]
    service.env.scale(service.name, 1)
    assert number_alive() == 1
    service.env.restart(service.name)
    assert (service.handle.get(1), number_alive(), made[-1]() is not None) == (1, 1, True)
    service.env.close()
    assert number_alive() == 0


def test_with_closes_after_an_exception(strategy, living, diary):
    """`with` closes the environment even if the block raises."""

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


def test_task_without_an_environment_finds_no_services(living):
    """A task without an environment finds no other service."""
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

    def quietly(method="hang"):
        with contextlib.suppress(errors.ServiceStoppedError):
            handle.call(method)

    def hang(method):
        if {strategy!r} == "inline":
            threading.Thread(target=quietly, args=(method,), daemon=True).start()
        else:
            handle.submit(method)
        entered.wait()

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
    """Runs each program, all at once, and maps (strategy, ending) to (exit code, output, errors)."""
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
    """Without `close` the interpreter still exits, even while a method hangs."""
    code, out, err = ends[strategy, ending]
    assert (code, err) == (0, "")
    assert out[:2] == ["fine", "end"]
    if ending == "idle":
        assert out == ["fine", "end", "cleanup"], "the service was stopped"


NEEDED_AT_EXIT = """
    import atexit
    import sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading
    from sage_deploy_local.target import LocalTarget
    from sage_plugins import Environment, ServiceDeploymentConfig, hookimpl
    from sage_plugins.plugins.registry import Registry
    from sage_plugins.values import Registration

    class Service:
        def method(self):
            return 1

        def stop(self):
            print("service stops")

    class Target(LocalTarget):
        def start(self, *args):
            atexit.register(print, "runtime ends")
            return super().start(*args)

    class Plugin:
        @hookimpl
        def sage_register_targets(self):
            return [Registration("other", lambda _: Target(), "Of the test", capabilities=frozenset({"in_process"}))]

    registry = Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, Plugin())
    env = Environment("test", registry=registry)
    env.register_service_with_config("svc", Service, deployment_config=ServiceDeploymentConfig(target="other"))
    env.service("svc").method()
"""


def test_forgotten_environment_is_closed_before_what_its_target_needs_ends(program):
    """An environment that was not closed is closed at exit before its target's runtime ends, such as Ray."""
    done = subprocess.run(program(NEEDED_AT_EXIT), capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["service stops", "runtime ends"]


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
    """In a forked child the parent's services raise ForkedRuntimeError and new ones work. The parent is unaffected."""
    before = after = "pass"
    if held:
        # When the process forks, another thread holds the locks of calls and of the environment.
        before = (
            "import sage_plugins.call.call as module; held = threading.Event(); go = threading.Event()\n"
            "    locks = [each for each in vars(module).values() if type(each) is type(threading.Lock())]\n"
            "    locks += [env._services.lock, env._services.catalogue._lock]\n"
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


@pytest.mark.parametrize(("calls", "text"), [(1, "1 call still runs"), (2, "2 calls still run")])
def test_calls_that_outlive_their_replica_are_counted(environments, gates, calls, text):
    """The event of a stop says how many calls still run."""

    class Asked:
        def run(self, gate):
            gate()

    said = []
    env = environments("counting", on_event=lambda event: said.append(event.reason))
    held = [gates() for _ in range(calls)]
    config = {"threading_strategy": "multi", "thread_count": 2, "drain_timeout": 0}
    env.register_service_with_config("svc", Asked, deployment_config=config)
    for gate in held:
        env.service("svc").submit("run", gate)
        gate.wait_entered()
    env.close()
    assert text in said
