"""What a client in another process sees of a deployed service, from deployment to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pickle
import subprocess
import textwrap
import threading
from pathlib import Path

import pytest

import memory_directory
from sage_deploy_remote.reach.client import ServiceClient
from sage_deploy_remote.reach.finder import ServiceFinder
from sage_plugins import ServiceDeploymentConfig, errors
from sage_plugins.clock import SYSTEM
from sage_plugins.interfaces import KnownService


class Service:
    def index(self):
        return self.ctx.replica_index

    def hold(self, gate):
        return gate()

    def echo(self, value):
        return value


class Renamed:
    def echo(self, value):
        return "renamed", value

    def other(self, value):
        return value

    def all(self, value):
        yield value


@pytest.fixture
def register(env):
    def register(cls=Service, name="svc", **fields):
        config = ServiceDeploymentConfig(**{"target": "memory"} | fields)
        env.register_service_with_config(name, cls, deployment_config=config)

    return register


@pytest.fixture
def visit(env, plugin):
    """Connect to a service as another process does."""
    clients = []

    def visit(name="svc"):
        clients.append(ServiceClient(memory_directory.MemoryDirectory(plugin.book, env.id), env.name, name))
        return clients[-1].handle

    yield visit
    while clients:
        clients.pop()._finalizer()
    gc.collect()
    SYSTEM.rest()


def test_deploy_waits_until_others_would_find_the_service(env, plugin, register):
    """`deploy` waits once for each service until other processes can find it."""
    register()
    register(name="other")
    env.deploy()
    assert plugin.book.seen == [0, 0]
    assert set(plugin.book.listings) == {"svc", "other"}


def test_handle_finds_its_way_home(env, register):
    """A handle that is unpickled in its own process uses the service there directly, and keeps its options."""
    register()
    env.deploy()
    handle = pickle.loads(pickle.dumps(env.service("svc").with_options(timeout=3, key="k")))  # noqa: S301 - our own
    assert handle.echo(1) == 1
    assert handle._bound.binding.router is env.task("svc")._router
    assert (handle._timeout, handle._options.key) == (3, "k")


def test_call_of_another_process_wakes_a_service_without_replicas(env, register, visit, until):
    """A client's call starts a replica of a service that has none, whether the client knew replicas before or not."""
    autoscale = {"min": 0, "max": 2, "scale_to_zero_delay": 0.1, "downscale_delay": 0.1, "look_back": 0.1}
    register(autoscale=autoscale)
    env.deploy()
    until(lambda: env.get_service_status("svc")["replicas"] == [])
    handle = visit()
    assert handle.echo(1) == 1
    until(lambda: env.get_service_status("svc")["replicas"] == [])
    assert handle.echo(2) == 2


def test_call_that_came_before_the_last_replica_went_wakes_the_service(env, register, visit, until):
    """A call that waits while the last replica leaves asks the service to start one."""
    autoscale = {"min": 0, "max": 2, "scale_to_zero_delay": 1000}
    register(autoscale=autoscale)
    env.deploy()
    handle = visit()
    assert handle.echo(1) == 1
    access = handle._bound.binding.router.on_unserved.__self__._access
    woken = []
    access.wake = woken.append
    gate = threading.Event()
    calls = [handle.submit("hold", _Stay(gate)), handle.submit("echo", 2)]
    until(calls[0].running)
    env.task("svc").changes.adjust(0, "as a test wants it")
    until(lambda: woken)
    gate.set()
    env.scale("svc", 1)  # the caller's request was not sent
    assert [call.result(20) for call in calls] == [True, 2]
    until(lambda: len(env.get_service_status("svc")["replicas"]) == 1)  # the replica that left has stopped


def test_calls_that_wait_in_another_process_bring_replicas(env, register, plugin, visit, until):
    """Calls that wait in a client's queue count for autoscaling, as those in the service's own queue do."""
    register(autoscale={"max": 3, "target_ongoing_requests": 2, "upscale_delay": 0.2, "look_back": 0.5})
    env.deploy()
    handle, gate = visit(), threading.Event()
    calls = [handle.submit("hold", _Stay(gate)) for _ in range(5)]
    until(lambda: len(env.get_service_status("svc")["replicas"]) > 1)
    assert env.task("svc")._router.waiting == 0
    gate.set()
    assert [call.result(20) for call in calls] == [True] * 5
    until(lambda: set(plugin.book.waiting.values()) == {0})


def test_pickling_a_handle_deploys_nothing(env, register):
    """Pickling a handle does not deploy its service."""
    register()
    pickle.dumps(env.service("svc"))
    assert env.task("svc").state == "pending"


def test_listing_that_is_late_changes_nothing(env, register, plugin, visit):
    """The directory ignores listings of an earlier deployment and earlier versions."""
    register()
    env.deploy()
    handle = visit()
    assert handle.echo(1) == 1
    latest = plugin.book.listings["svc"]
    plugin.book.publish(latest._replace(version=latest.version - 1, replicas=()))
    plugin.book.publish(latest._replace(incarnation=latest.incarnation - 1, version=latest.version + 1, replicas=()))
    assert plugin.book.listings["svc"] is latest
    assert handle.echo(2) == 2


def test_service_that_is_deployed_again_is_followed(env, register, plugin, visit):
    """After a new deployment, new handles have the methods of the new class."""
    register()
    env.deploy()
    handle = visit()
    assert handle.echo(1) == 1
    env.drain("svc")
    with pytest.raises(errors.ServiceStoppedError):
        handle.echo(2)
    register(Renamed)
    env.deploy()
    assert plugin.book.listings["svc"].replicas
    fresh = visit()
    assert fresh.other(3) == 3
    with pytest.raises(errors.MethodNotFoundError):
        fresh.index()


def test_handle_goes_on_with_the_new_deployment(env, register, visit, until):
    """A client's handle works again after its service was drained and deployed with another class."""
    register()
    env.deploy()
    handle = visit()
    assert handle.echo(1) == 1
    env.drain("svc")
    register(Renamed)
    env.deploy()

    def moved():
        try:
            return handle.echo(2) == ("renamed", 2)
        except errors.ServiceStoppedError:
            return False

    until(moved)


@pytest.mark.parametrize("verb", ["call", "submit", "acall", "stream", "astream"])
def test_handle_knows_the_methods_of_the_new_deployment(env, register, visit, until, verb):
    """
    A handle bound to the old deployment finds the new methods with every verb, even if no call was refused before.
    """
    register()
    env.deploy()
    own, clients = env.service("svc"), visit()
    assert (own.echo(1), clients.echo(1)) == (1, 1)
    env.drain("svc")
    register(Renamed)
    env.deploy()
    assert used(own, verb) == [3]
    until(lambda: used(clients, verb) == [3])  # the directory passes on the change within moments
    for handle in (own, clients):
        with pytest.raises(errors.MethodNotFoundError, match="did you mean 'other'"):
            handle.call("othe", 3)


def used(handle, verb):
    """Call a method that only the new deployment has, with any verb; return nothing while it is unknown."""

    async def collect():
        return (
            [await handle.acall("other", 3)] if verb == "acall" else [item async for item in handle.astream("all", 3)]
        )

    try:
        match verb:
            case "call":
                return [handle.call("other", 3)]
            case "submit":
                return [handle.submit("other", 3).result(20)]
            case "stream":
                return list(handle.stream("all", 3))
            case _:
                return asyncio.run(collect())
    except (errors.MethodNotFoundError, errors.ServiceStoppedError):
        return []


def test_replica_that_dies_is_replaced_for_clients_too(env, register, visit, until):
    """When a replica dies, its running call ends with ReplicaDiedError, and waiting calls go to its replacement."""
    register()
    env.deploy()
    handle = visit()
    gate = threading.Event()
    running = handle.submit("hold", _Stay(gate))
    until(running.running)
    waiting = handle.submit("echo", 2)
    memory_directory.MemoryTarget.transports["svc#0"].die()
    assert isinstance(running.exception(20), errors.ReplicaDiedError)
    assert waiting.result(20) == 2
    gate.set()


def test_clients_without_hope_are_told(env, register, plugin, visit, until):
    """A service that has no replica and gets none refuses the calls of clients with the same reason."""
    register()
    env.deploy()
    handle = visit()
    assert handle.echo(1) == 1
    latest = plugin.book.listings["svc"]
    plugin.book.publish(latest._replace(version=latest.version + 10**6, replicas=(), unavailable="it is in ruins"))

    def refused():
        try:
            handle.with_options(timeout=0.05).echo(2)
        except errors.CallError as error:
            return str(error) == "it is in ruins"

    until(refused)


def test_calls_go_on_while_there_is_no_directory(env, register, plugin, visit, until):
    """Calls go on without a directory. They fail once the last replica is gone too, as nobody replaces it."""
    register()
    env.deploy()
    handle = visit()
    assert handle.echo(1) == 1
    plugin.book.lose()
    assert handle.echo(2) == 2
    memory_directory.MemoryTarget.transports["svc#0"].die_to_others(ChildProcessError("gone"))

    def refused():
        try:
            handle.with_options(timeout=0.05).echo(3)
        except errors.CallError as error:
            return "the process that deploys environment 'theirs' has ended" in str(error)

    until(refused)


def test_client_that_is_not_used_is_let_go_of(env, register, plugin, until):
    """A client that is no longer used ends its thread."""
    register()
    env.deploy()
    handle = ServiceClient(memory_directory.MemoryDirectory(plugin.book, env.id), env.name, "svc").handle
    assert handle.echo(1) == 1
    del handle

    def let_go():
        gc.collect()
        return not any(thread.name == "svc-changes" for thread in threading.enumerate())

    until(let_go)


def test_services_are_told_apart_by_what_is_known_of_them(env, register, plugin):
    """The error says why a service cannot be called: it is local elsewhere, unknown, or not deployed in time."""
    register(name="caller")
    env.register_service_with_config(
        "late", Service, deployment_config=ServiceDeploymentConfig(target="memory", startup_timeout=0.01)
    )
    env.task("caller").start_running()
    find = ServiceFinder(memory_directory.MemoryDirectory(plugin.book, env.id), env.name, "caller")
    plugin.book.known["home"] = KnownService("local", reachable=False, startup_timeout=1.0)  # local to its process
    with pytest.raises(errors.CallError, match=r"'home' runs in the process .* on target 'local'.*'caller'"):
        find("home")
    with pytest.raises(errors.ServiceNotFoundError, match="did you mean 'late'"):
        find("lat")
    with pytest.raises(errors.NoReplicaError, match=r"'late' was not deployed in 0\.01 s"):
        find("late").echo(1)
    plugin.book.lose()
    with pytest.raises(errors.NoReplicaError, match="has ended, or not yet begun"):
        find("caller").echo(1)


def test_service_that_is_known_is_found_without_the_directory(env, register, plugin, monkeypatch):
    """
    A known service is found without the directory, as the caller may be an event loop, which must not block.

    The first call asks the directory for the replicas, in another thread. Only unknown services are looked up at once.
    """
    register()
    register(name="caller")
    env.deploy()
    looking = []
    look_up = memory_directory.ServiceAccess.look_up

    def noting_look_up(access, *how):
        looking.append((access.service, threading.get_ident()))
        return look_up(access, *how)

    monkeypatch.setattr(memory_directory.ServiceAccess, "look_up", noting_look_up)
    find = pickle.loads(pickle.dumps(env.task("caller").reach.find_service))  # noqa: S301 - our own

    async def use():
        handle = find("svc")
        assert not looking
        assert await handle.acall("echo", 1) == 1
        return threading.get_ident()

    loop = asyncio.run(use())
    assert [(name, thread != loop) for name, thread in looking] == [("svc", True)]
    with pytest.raises(errors.ServiceNotFoundError, match="did you mean 'svc'"):
        find("scv")
    looking.clear()
    env.register_service_with_config("later", Service, deployment_config=ServiceDeploymentConfig(target="memory"))
    assert env.service("later").echo(2) == 2
    assert find("later").echo(3) == 3
    assert looking[0][0] == "later"


def test_owner_waits_until_others_know_before_a_replica_is_stopped(env, register, plugin):
    """Before it stops a replica, the owner waits until clients know the listing without it."""
    register(replicas=2, load_balancing=True)
    env.deploy()
    env.scale("svc", 1)
    latest = plugin.book.listings["svc"]
    assert [each.id for each in latest.replicas] == ["svc#0"]
    assert plugin.book.seen[-1] == latest.version


def test_key_of_an_argument_travels(env, register, plugin):
    """The function that reads a key from a call's arguments can be pickled, for every kind of parameter."""

    class Keyed:
        def plain(self, user, value=None): ...

        def named(self, *, user=7): ...

        def positional(self, user=7, /): ...

        def without(self): ...

        def at_will(self, **rest): ...

    from sage_plugins.service.call_key import compose_key_of
    from sage_plugins.service.methods import method_plans

    methods, _ = method_plans(Keyed, ServiceDeploymentConfig())
    key_of = pickle.loads(pickle.dumps(compose_key_of("user", Keyed, methods)))  # noqa: S301 - our own
    plans = {method.name: method for method in methods}

    def key(name, *args, **kwargs):
        return key_of(_Called(plans[name], args, kwargs))

    assert [key("plain", 1), key("plain", user=2), key("plain")] == [1, 2, None]
    assert [key("named"), key("named", user=3)] == [7, 3]
    assert [key("positional"), key("positional", 4)] == [7, 4]
    assert [key("without"), key("at_will", user=5), key("at_will")] == [None, 5, None]


def test_directory_that_fails_hurts_nobody_at_home(env, register, plugin, caplog):
    """If publishing fails, the service still works in its own process; the failure is logged once."""
    register(replicas=2, load_balancing=True)
    env.deploy()

    def fail(_listing):
        raise OSError("no directory")

    plugin.book.publish = fail
    with caplog.at_level(logging.ERROR):
        env.scale("svc", 1)
        env.scale("svc", 2)
    assert env.service("svc").echo(1) == 1
    assert sum("other processes are not told" in record.message for record in caplog.records) == 1


class _Stay:
    """Waits until an event of this process is set. Its copies find the event by its number."""

    events: dict = {}  # noqa: RUF012 - shared on purpose

    def __init__(self, event):
        self.number = id(event)
        self.events[self.number] = event

    def __call__(self):
        return self.events[self.number].wait(20)


class _Called:
    def __init__(self, method, args, kwargs):
        self.method, self.args, self.kwargs = method, args, kwargs


# -- fork --------------------------------------------------------------------------------------------------------------

FORKED = """
    import os, sys, threading, warnings
    sys.path.insert(0, {support!r})
    import memory_directory, sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading
    from sage_plugins import Environment, ServiceDeploymentConfig
    from sage_deploy_remote.reach import client, finder
    from sage_plugins.errors import ForkedRuntimeError
    from sage_plugins.plugins.registry import Registry
    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of every fork beside threads

    class Service:
        def echo(self, value):
            return value

    def failing(attempt):
        try:
            return repr(attempt())
        except ForkedRuntimeError as error:
            return "ForkedRuntimeError" if "spawn" in str(error) else str(error)

    plugin = memory_directory.Plugin()
    registry = Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, plugin)
    env = Environment("theirs", registry=registry)
    for name in ("svc", "unused"):
        env.register_service_with_config(name, Service, deployment_config=ServiceDeploymentConfig(target="memory"))
    env.deploy()
    find = finder.ServiceFinder(memory_directory.MemoryDirectory(plugin.book, env.id), env.name, "caller")
    used, unused = find("svc"), find("unused")
    print(used.echo(1))

    held, go = threading.Event(), threading.Event()
    def hold():  # another thread is in the middle of finding a service, and of taking in news, when the process forks
        locks = [client._lock, *(lock for one in client._clients.values() for lock in (one._lock, one._binding_lock))]
        for lock in locks:
            lock.acquire()
        held.set()
        go.wait()
        for lock in locks:
            lock.release()
    threading.Thread(target=hold).start()
    held.wait()
    child = os.fork()
    if child == 0:
        print(failing(lambda: used.echo(2)))
        print(failing(lambda: used.submit("echo", 2)))
        print(failing(lambda: used.with_options(timeout=1).echo(2)))
        print(failing(lambda: unused.echo(2)))
        print(failing(lambda: find("svc").echo(2)))
        find = used = unused = None
        print("child ends", flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    go.set()
    print(used.echo("parent lives"), os.waitstatus_to_exitcode(status))
    env.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform does not fork")
def test_calls_from_a_forked_child_are_refused_at_once(program):
    """In a forked child, handles refuse calls at once, used before or not; the parent's calls still work."""
    source = textwrap.dedent(FORKED).format(support=str(Path(memory_directory.__file__).parent))
    done = subprocess.run(program(source), capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["1", *["ForkedRuntimeError"] * 5, "child ends", "parent lives 0"]
