"""
Calls from other processes to services whose replicas run in the deploying process.

The "other process" is simulated: its client knows the environment only by the directory, and connects by the socket.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import pickle
import socket
import subprocess
import threading
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from socket import SHUT_RDWR

import pytest

import memory_directory
from sage_deploy_remote.driver import address
from sage_deploy_remote.driver.publishing import revive_near
from sage_deploy_remote.link.sockets import connection_reader
from sage_deploy_remote.reach.client import ServiceClient
from sage_deploy_remote.rpc.address import Address
from sage_plugins import ServiceDeploymentConfig, batch_of, errors
from sage_plugins.call.current import carry
from sage_plugins.call.stream import AHEAD
from sage_plugins.clock import SYSTEM

PATIENCE_S = 20.0


class Home:
    def __init__(self):
        self.tried = 0
        self.notes = []
        self.given = 0
        self.ended = threading.Event()

    def echo(self, value):
        return value

    def index(self):
        return self.ctx.replica_index

    def note(self, value):
        self.notes.append(value)

    def noted(self):
        return self.notes

    def left(self):
        return self.ctx.remaining(), self.ctx.request_id

    def fail(self, text):
        self.tried += 1
        raise KeyError(text)

    def attempts(self):
        return self.tried

    def hold(self, gate):
        """Wait until the test opens the gate."""
        GATES[gate].enter()
        return self.ctx.cancelled

    async def hang(self, gate):
        try:
            await GATES[gate].aenter()
        except asyncio.CancelledError:
            GATES[gate].cancelled.set()
            raise

    def numbers(self):
        try:
            for number in itertools.count():
                self.given = number + 1
                yield number
        finally:
            self.ended.set()

    def so_far(self):
        """Return how many numbers were yielded, and whether the generator has ended."""
        return self.given, self.ended.wait(0)

    def one(self, value):
        return value, 1

    @batch_of("one")
    def many(self, values):
        return [(value, len(values)) for value in values]

    def ask(self, name, method, *args):
        """Call a method of another service, as a method in another process does."""
        find = VISITS.get(name, self.ctx.service)
        return find(name).call(method, *args)

    def ask_by_future(self, name, method, *args):
        return VISITS[name](name).submit(method, *args).result()

    async def ask_async(self, name, method, *args):
        return await VISITS[name](name).acall(method, *args)

    def report(self, name, method, *args):
        """Submit a call without waiting for it."""
        VISITS[name](name).submit(method, *args)


class Gate:
    def __init__(self):
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.cancelled = threading.Event()

    def enter(self):
        self.entered.release()
        assert self.open.wait(PATIENCE_S)

    async def aenter(self):
        self.entered.release()
        await asyncio.sleep(PATIENCE_S)

    def wait(self):
        assert self.entered.acquire(timeout=PATIENCE_S)


GATES = {}
VISITS = {}


@pytest.fixture
def gate():
    GATES["gate"] = made = Gate()
    yield made
    made.open.set()
    GATES.clear()


@pytest.fixture(autouse=True)
def short_naps(monkeypatch):
    """An idle connection reader ends soon, so that no test waits for it."""
    monkeypatch.setattr(connection_reader, "_IDLE_S", 0.01)


@pytest.fixture
def register(env):
    def register(name, target="local", cls=Home, **fields):
        config = ServiceDeploymentConfig(**{"target": target, "timeout": PATIENCE_S} | fields)
        env.register_service_with_config(name, cls, deployment_config=config)

    return register


@pytest.fixture
def visit(env, plugin, until):
    """Connect to a service as another process does; *who* tells several such processes apart."""
    clients = {}

    def visit(name="home", who="another"):
        if (name, who) not in clients:
            directory = memory_directory.MemoryDirectory(plugin.book, env.id)
            clients[name, who] = ServiceClient(directory, env.name, name)
        return clients[name, who].handle

    yield visit
    VISITS.clear()
    for client in clients.values():
        client._finalizer()
    clients.clear()
    until(lambda: not any(each.name.endswith("-reader") for each in threading.enumerate()))
    gc.collect()
    SYSTEM.rest()


@pytest.fixture
def deploy(env, register, visit):
    """Deploy a local service and one on another target. Return a handle to the first, as another process has it."""

    def deploy(**fields):
        register("home", **fields)
        register("relay", "memory")
        env.deploy()
        return visit()

    return deploy


def outcomes(env, name="home"):
    return env.get_service_status(name)["metrics"].outcomes


def waiting(env):
    return env.get_service_status("home")["metrics"].queue_size


# -- calls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["single", "pool", "async", "inline"])
def test_call_of_another_process_runs_at_home_and_counts_once(env, deploy, strategy, until):
    """A call from another process counts once, under every strategy, and its error keeps its type."""
    home = deploy(threading_strategy=strategy)
    assert home.echo(1) == 1
    with pytest.raises(KeyError, match="why"):
        home.fail("why")
    assert list(itertools.islice(home.stream("numbers"), 3)) == [0, 1, 2]
    assert home.attempts() == 1

    def counted():
        found = outcomes(env)
        return found["ok"] + found.get("cancelled", 0), found["error"]

    until(lambda: counted() == (3, 1))  # the stream ends when the driver hears that its consumer has stopped


def test_time_and_request_of_a_call_travel(env, deploy):
    """The time left and the request id of a call reach the method in the deploying process."""
    home = deploy()
    context = copy_context()
    context.run(carry, request_id="r-1")
    left, request = context.run(home.with_options(timeout=3).left)
    assert 0 < left < 3
    assert request == "r-1"
    assert home.with_options(timeout=None).left()[0] is None


def test_arguments_that_cannot_be_read_fail_the_call_which_counts_once(env, deploy):
    """Arguments that cannot be unpickled fail the call; it counts once, as an error."""
    home = deploy()
    with pytest.raises(ZeroDivisionError):
        home.echo(Unreadable())
    assert outcomes(env) == {"error": 1}


class Unreadable:
    def __reduce__(self):
        return divmod, (1, 0)


def test_options_of_a_handle_are_minded_by_the_router(env, deploy):
    """
    Options of a client's handle apply: a key selects the same replica everywhere, and idempotent calls are retried.
    """
    home = deploy(
        replicas=3, load_balancer="consistent_hash", retry={"on": ["KeyError"], "max_attempts": 3, "backoff": 0.001}
    )
    own = env.service("home")
    keys = ["a", "b", 3, ("c", 4)]
    assert [home.with_options(key=key).index() for key in keys] == [own.with_options(key=key).index() for key in keys]
    for idempotent, attempts in ((None, 1), (True, 4)):
        with pytest.raises(KeyError):
            home.with_options(key="k", idempotent=idempotent).fail("again")
        assert own.with_options(key="k").attempts() == attempts


def test_key_that_cannot_travel_is_refused(deploy):
    """A key that cannot be sent is refused with InvalidKeyError; the handle stays usable."""
    home = deploy()
    with pytest.raises(errors.InvalidKeyError, match=r"home\.echo was not sent: its key is a frozenset"):
        home.with_options(key=frozenset("k")).echo(1)
    assert home.with_options(key="k").echo(2) == 2


def test_calls_of_others_start_by_their_priority(env, deploy, gate, until):
    """Calls of other processes and of this one wait in one queue, sorted by priority."""
    home = deploy(overload="priority", threading_strategy="single")
    own = env.service("home")
    own.submit("hold", "gate")
    gate.wait()
    calls = [own.with_options(priority=each).submit("note", each) for each in (0, 2)]
    calls.append(home.with_options(priority=1).submit("note", 1))
    until(lambda: waiting(env) == 3)
    gate.open.set()
    assert [call.result() for call in calls] == [None] * 3
    assert home.noted() == [2, 1, 0]


def test_calls_of_others_are_answered_together(env, deploy):
    """Calls of other processes are answered in batches of the configured size."""
    home = deploy(methods={"one": {"batch": {"size": 4, "wait": PATIENCE_S / 2}}})
    calls = [home.submit("one", number) for number in range(8)]
    assert [call.result() for call in calls] == [(number, 4) for number in range(8)]
    assert outcomes(env) == {"ok": 8}


# -- calls that are given up -------------------------------------------------------------------------------------------


def test_coroutine_is_cancelled_when_its_caller_elsewhere_gives_it_up(env, deploy, gate):
    """When its caller in another process cancels a call, the coroutine is cancelled."""
    home = deploy(threading_strategy="async")
    call = home.submit("hang", "gate")
    gate.wait()
    assert call.cancel()
    assert gate.cancelled.wait(PATIENCE_S)
    assert home.echo(1) == 1
    assert outcomes(env) == {"cancelled": 1, "ok": 1}


def test_call_that_waits_at_home_never_starts_once_its_caller_has_given_up(env, deploy, gate, until):
    """A call that times out while it waits never starts. It counts as a timeout and frees its place in the queue."""
    home = deploy(threading_strategy="single")
    holding = env.service("home").submit("hold", "gate")
    gate.wait()
    with pytest.raises(errors.CallTimeoutError):
        home.with_options(timeout=0.02).fail("never")
    until(lambda: waiting(env) == 0)
    gate.open.set()
    holding.result()
    assert home.attempts() == 0
    until(lambda: outcomes(env) == {"timeout": 1, "ok": 2})


def test_call_waits_at_home_no_longer_than_in_any_queue(env, deploy, gate):
    """`queue_timeout` also applies to a call of another process."""
    home = deploy(threading_strategy="single", queue_timeout=0.02)
    env.service("home").submit("hold", "gate")
    gate.wait()
    with pytest.raises(errors.CallTimeoutError) as caught:
        home.echo(1)
    assert caught.value.stage == "queue"


def test_calls_of_a_process_that_is_gone_are_given_up(env, deploy, gate, until):
    """When a caller's connection ends, its calls are cancelled and its caller gets ReplicaDiedError."""
    home = deploy()
    call = home.submit("hold", "gate")
    gate.wait()
    cut(env)
    with pytest.raises(errors.ReplicaDiedError, match="no connection to the process that deployed service 'home'"):
        call.result()
    until(lambda: outcomes(env) == {"cancelled": 1})


def cut(env):
    """Close the connections of all callers, as happens when their processes end."""
    (way,) = env.task("home").reach._all_reaches()
    for ends in way._listener._callers.values():
        for end in tuple(ends):
            with suppress(OSError):
                end.shutdown(SHUT_RDWR)


def test_connection_that_was_lost_is_made_again(env, deploy):
    """After a lost connection the client connects again, and calls succeed."""
    home = deploy()
    assert home.echo(1) == 1
    cut(env)
    assert home.with_options(idempotent=True).echo(2) == 2


# -- streams -----------------------------------------------------------------------------------------------------------


def test_stream_is_never_far_ahead_of_its_consumer_elsewhere(env, deploy, until):
    """A stream runs at most `AHEAD` items ahead of its consumer; it ends when the consumer stops."""
    home = deploy(threading_strategy="pool", thread_count=2)
    with home.stream("numbers") as items:
        assert next(items) == 0
        until(lambda: home.so_far()[0] >= AHEAD)
        given = home.so_far()[0]
        assert [next(items) for _ in range(AHEAD)] == list(range(1, AHEAD + 1))
        assert given <= AHEAD + 1
    until(lambda: home.so_far()[1])


# -- queues and slots --------------------------------------------------------------------------------------------------


def test_full_queue_at_home_refuses_calls_of_others(env, deploy, gate):
    """A full queue refuses calls of other processes and counts them as refused."""
    home = deploy(threading_strategy="single", queue_size=1, overload="reject")
    own = env.service("home")
    own.submit("hold", "gate")
    gate.wait()
    waiting = own.submit("echo", 1)
    with pytest.raises(errors.OverloadedError, match="queue_size=1"):
        home.echo(2)
    gate.open.set()
    assert waiting.result() == 1
    assert env.get_service_status("home")["metrics"].rejected_count == 1


def test_service_that_is_scaled_takes_as_many_calls_of_others_at_once(env, deploy, gate):
    """Scaling a service changes how many calls of other processes run at once."""
    home = deploy(threading_strategy="single")
    assert home.echo(1) == 1
    first = home.submit("hold", "gate")
    gate.wait()
    env.scale("home", 2)
    second = home.submit("hold", "gate")
    gate.wait()
    gate.open.set()
    assert (first.result(), second.result()) == (False, False)
    env.scale("home", 1)
    assert home.echo(2) == 2


def test_calls_of_others_wake_a_service_that_sleeps(env, deploy, until):
    """A call of another process starts a replica of a service that was scaled to zero."""
    delays = {"scale_to_zero_delay": 0.1, "downscale_delay": 0.1, "look_back": 0.1}
    home = deploy(autoscale={"min": 0, "max": 2} | delays)
    until(lambda: not env.get_service_status("home")["replicas"])
    assert home.echo(1) == 1


# -- circles -----------------------------------------------------------------------------------------------------------


def test_circle_through_home_is_found(env, deploy, visit):
    """A circle of calls through both processes is found, from either end; with a second replica there is no circle."""
    deploy(threading_strategy="single")
    VISITS["home"] = visit
    with pytest.raises(errors.ReentrantCallError, match=r"home\.ask -> relay\.ask -> home\.echo"):
        env.service("home").ask("relay", "ask", "home", "echo", 1)
    with pytest.raises(errors.ReentrantCallError, match=r"relay\.ask -> home\.ask -> relay\.echo"):
        env.service("relay").ask("home", "ask", "relay", "echo", 1)
    env.scale("home", 2)
    assert env.service("home").ask("relay", "ask", "home", "echo", 1) == 1


def test_circle_that_another_process_began_is_found(env, register, visit):
    """A circle that another process began is found by the slots it holds, although its first call is unknown here."""
    for name in ("home", "den"):
        register(name, threading_strategy="single")
    register("relay", "memory", threading_strategy="single")
    env.deploy()
    VISITS["home"] = partial(visit, who="relay")
    with pytest.raises(errors.ReentrantCallError, match=r"relay\.echo would never start"):
        visit("relay").ask("home", "ask", "den", "ask", "relay", "echo", 1)
    with pytest.raises(errors.ReentrantCallError, match=r"home\.echo would never start"):
        visit("home").ask("relay", "ask", "home", "echo", 1)


@pytest.mark.parametrize("verb", ["ask", "ask_by_future", "ask_async"])
def test_method_elsewhere_may_wait_in_any_way(env, deploy, visit, verb):
    """A circle is found whichever way the method in the other process waits: call, future or coroutine."""
    deploy(threading_strategy="single")
    VISITS["home"] = visit
    with pytest.raises(errors.ReentrantCallError, match=r"home\.ask -> relay\.\w+ -> home\.echo"):
        env.service("home").ask("relay", verb, "home", "echo", 1)


def test_call_for_which_no_method_waits_starts_when_there_is_a_slot(env, deploy, visit, until):
    """A submitted call that no method waits for is no circle: it starts when a slot is free."""
    home = deploy(threading_strategy="single")
    VISITS["home"] = visit
    env.service("home").ask("relay", "report", "home", "note", 1)
    until(lambda: home.noted() == [1])


# -- its life ----------------------------------------------------------------------------------------------------------


def test_service_that_is_deployed_later_or_again_is_found(env, register, visit, until):
    """A client finds a service that is deployed later, restarted, or drained and deployed again."""
    register("relay", "memory")
    env.deploy()
    register("home")
    home = visit()
    with pytest.raises(errors.ServiceNotFoundError):
        home.echo(1)
    env.deploy()
    assert home.echo(1) == 1
    env.restart("home")
    assert home.echo(2) == 2
    env.drain("home")
    with pytest.raises(errors.ServiceStoppedError):
        home.echo(3)
    env.deploy()

    def found():
        with suppress(errors.ServiceStoppedError):
            return home.echo(4) == 4

    until(found)


def test_running_call_of_another_process_is_finished_before_the_service_stops(env, deploy, gate, in_thread):
    """A drain waits for the running call of another process."""
    home = deploy()
    call = home.submit("hold", "gate")
    gate.wait()
    draining = in_thread(env.drain, "home", PATIENCE_S)
    gate.open.set()
    assert call.result() is False
    draining.result(PATIENCE_S)


def test_service_that_cannot_be_connected_to_says_so(env, deploy, monkeypatch):
    """If a client cannot connect, its call fails at once with the reason, not at its deadline."""
    monkeypatch.setattr(address, "this_machine", lambda: "another")
    monkeypatch.setattr(Address, "connect_socket", lambda *_: Path("/nowhere").read_text())
    home = deploy()
    with pytest.raises(errors.NoReplicaError, match=r"cannot connect to .*: it listens for processes of its own"):
        home.echo(1)


def test_connection_that_ends_before_the_service_is_named_is_closed(monkeypatch):
    """A connection is closed if its other end goes before the service is named."""
    ours, theirs = socket.socketpair()
    theirs.close()
    monkeypatch.setattr(Address, "connect_socket", lambda *_: ours)
    listens = address.DriverAddress(b"k" * address.KEY_BYTES, address.this_machine(), Address("/nowhere", b""))
    with pytest.raises(OSError, match="Broken pipe"):
        listens.connect()
    assert ours.fileno() == -1


@pytest.fixture
def far(monkeypatch):
    """Callers appear to be on another machine, and the driver has a port for them."""
    monkeypatch.setattr(address, "this_machine", lambda: "another")
    monkeypatch.setattr(memory_directory.MemoryDirectory, "host", lambda _: "127.0.0.1")


@pytest.mark.usefixtures("far")
def test_caller_on_another_machine_comes_in_by_a_port(env, deploy):
    """A caller on another machine connects by TCP."""
    home = deploy()
    assert home.echo(1) == 1
    assert port(env).address.place[0] == "127.0.0.1"
    assert len(port(env)._connections) == 1


@pytest.mark.usefixtures("far")
def test_caller_on_another_machine_uses_tls_where_that_is_asked_for(env, plugin, deploy, node_certificates, until):
    """A caller without certificates is refused and told why. The last message arrives before the connection closes."""
    plugin.book.certificates = node_certificates
    home = deploy()
    assert home.echo(1) == 1
    assert port(env).address.takes_tls
    plugin.book.certificates = None
    cut(env)
    until(lambda: "this process has no certificates" in failure(home))
    plugin.book.certificates = node_certificates
    until(lambda: not failure(home))
    env.drain("home")
    with pytest.raises(errors.ServiceStoppedError):
        home.echo(2)


def port(env):
    """Return the listener for callers on other machines."""
    (way,) = env.task("home").reach._all_reaches()
    return way._listener._listeners._open[False]


def failure(home):
    try:
        home.echo(1)
    except (errors.NoReplicaError, errors.ReplicaDiedError) as error:
        return str(error)
    return ""


def test_door_is_opened_for_the_first_service_and_closed_after_the_last(env, register, visit):
    """The listener opens with the first service on another target and closes when the service is drained."""
    register("home")
    register("relay", "memory")
    assert env.service("home").echo(1) == 1
    assert env.task("home").reach._all_reaches() == ()
    assert env.service("relay").echo(2) == 2
    (way,) = env.task("home").reach._all_reaches()
    listener = way._listener
    assert visit().echo(3) == 3
    env.drain("home")
    assert (listener._listeners, listener._servers, listener._callers) == (None, {}, {})


def test_service_of_a_program_without_others_costs_nothing(program):
    """A program whose services have no callers in other processes imports none of this and starts no thread."""
    source = """
        import sys, threading
        from sage_plugins import Environment, ServiceDeploymentConfig

        class Echo:
            def echo(self, value):
                return value

        with Environment("alone") as env:
            env.register_service("home", Echo)
            env.register_service_with_config("relay", Echo, deployment_config=ServiceDeploymentConfig(target="process"))
            before = threading.active_count()
            assert env.service("home").echo(1) == 1
            print([name for name in sys.modules if name.startswith("sage_deploy_remote.")])
            print([each.name for each in threading.enumerate() if each.name.startswith(("rpc", "directory"))])
    """
    done = subprocess.run(program(source), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["[]", "[]"]


# -- handles -----------------------------------------------------------------------------------------------------------


def test_handle_that_is_pickled_finds_its_way_home(env, register):
    """A handle pickled before anything is deployed, as in a constructor's arguments, works in its own process."""
    register("home")
    register("relay", "memory")
    handle = env.service("home").with_options(timeout=3, key="k")
    again = pickle.loads(pickle.dumps(handle))  # noqa: S301 - our own
    assert again.echo(1) == 1
    assert env.task("relay").state == "pending"


def test_handle_of_a_service_without_others_is_not_pickled(env, register):
    """A handle of a service that no other process can find is refused by pickle."""
    register("home")
    with pytest.raises(errors.CallError, match="and no other process finds it"):
        pickle.dumps(env.service("home"))


def test_handle_of_a_service_found_in_several_places_takes_what_is_within_reach(plugin):
    """If a service is in several directories, a handle uses one within reach; if none is, the first."""

    class Far(memory_directory.MemoryDirectory):
        def within_reach(self):
            return False

    far, near = Far(plugin.book, "far"), memory_directory.MemoryDirectory(plugin.book, "near")
    for directories, chosen in (((far, near), near), ((far,), far), ((far, Far(plugin.book, "farther")), far)):
        handle = revive_near(directories, "theirs", "home", {})
        assert handle.__reduce__()[1][0] == chosen
