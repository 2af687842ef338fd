"""Services stop at any moment: while they are deployed, drain, hang, or are stopped by several threads."""

from __future__ import annotations

import concurrent.futures
import gc
import logging
import math
import threading
import weakref
from functools import partial

import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_local.target import LocalTarget
from sage_plugins import Environment, ServiceDeploymentConfig, batch_of, errors
from sage_plugins.hookspecs import hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration
from service_threads import config, ours

pytestmark = pytest.mark.usefixtures("_earlier")

FIRST_PARTY = (sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading)

PATIENCE = 20.0
SHORT = 0.03


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
    until(lambda: not ours())


def test_event_listener_may_close_while_a_service_stops(environments, in_thread, until):
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
    until(lambda: not ours())


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


def test_with_closes_after_an_exception(strategy, living, diary, until):
    """`with` closes the environment even if the block raises."""

    def fail_inside():
        with Environment("test") as env:
            env.register_service_with_config("svc", living, deployment_config=config(strategy))
            env.deploy()
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert steps(diary)[-2:] == ["stop", "cleanup"]
    until(lambda: not ours())


# -- fork --------------------------------------------------------------------------------------------------------------


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
