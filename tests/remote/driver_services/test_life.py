"""
How other processes find and reach services of the deploying process, and what circles of calls end with.

The "other process" is simulated: its client knows the environment only by the directory, and connects by the socket.
"""

from __future__ import annotations

import pickle
import socket
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

import memory_directory
from home_service import PATIENCE_S, VISITS, cut
from sage_deploy_remote.driver import address
from sage_deploy_remote.driver.publishing import revive_near
from sage_deploy_remote.rpc.address import Address
from sage_plugins import errors

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
