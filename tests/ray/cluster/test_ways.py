"""How calls reach replicas on Ray: over a socket, or as Ray tasks if there is no socket or none is wanted."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import threading
from collections import Counter
from pathlib import Path

import attrs
import pytest
import ray

from certificates import NEEDS_OPENSSL, Authority
from driver import Driver
from network import NEEDS_NAMESPACES, Network
from sage_deploy_ray import target
from sage_deploy_ray.actors import transport
from sage_deploy_remote.rpc.address import Address
from sage_plugins import ServiceDeploymentConfig, errors
from witness import calls_in

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

WAYS = ["socket", "tasks"]

#: Ports of a Ray node, so that a firewall can tell them from others.
RAY_PORTS = [
    "--node-manager-port=30001",
    "--object-manager-port=30002",
    "--min-worker-port=31000",
    "--max-worker-port=32000",
]


class Blob:
    """Bytes that are not copied into the pickle."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Blob, (pickle.PickleBuffer(self.data),)


class Service:
    """The service of these tests."""

    def copy(self, blob):
        return Blob(bytearray(memoryview(blob.data)))

    def echo(self, value):
        return value

    def pid(self):
        return os.getpid()

    def put(self, value):
        return [ray.put(value)]

    def fail(self, value):
        raise LookupError([ray.put(value)])

    def each(self, count):
        for number in range(count):
            yield [ray.put(number)]

    def hold(self, begun):
        Path(begun).touch()
        threading.Event().wait()

    def ask(self, handle, value):
        return handle.echo(value), handle._bound.binding.router.lanes[0].replica._transport.pushes


@pytest.fixture
def deploy(environments):
    def deploy(calls, options=None, **config):
        env = environments("ways", options={"ray": {"calls": calls, **(options or {})}})
        fields = {"target": "remote_any", "cpu_cores": 0.01} | config
        env.register_service_with_config("svc", Service, deployment_config=ServiceDeploymentConfig(**fields))
        env.deploy()
        return env

    return deploy


def transport_of(handle):
    return handle._bound.binding.router.lanes[0].replica._transport


def remarks(env):
    return [each.event.reason for each in env.events() if each.event.kind == "replica_remark"]


@pytest.mark.parametrize(("calls", "pushes"), [("auto", True), ("socket", True), ("tasks", False)])
def test_calls_go_the_way_that_is_configured(deploy, calls, pushes):
    """Calls use the configured way. `auto` uses the connection if there is one, without an event."""
    env = deploy(calls)
    handle = env.service("svc")
    assert handle.echo(1) == 1
    assert transport_of(handle).pushes is pushes
    assert remarks(env) == []


def no_way(_address, _certificates):
    raise ConnectionRefusedError("a firewall is in between")


def test_calls_are_tasks_where_there_is_no_connection(deploy, monkeypatch):
    """With `auto`, calls are Ray tasks if there is no connection; an event says why and to where."""
    monkeypatch.setattr(Address, "connect_socket", no_way)
    env = deploy("auto")
    assert env.service("svc").echo(1) == 1
    (remark,) = remarks(env)
    assert remark.startswith("its calls are tasks of Ray, which are slower: there is no connection to ")
    assert remark.endswith("ConnectionRefusedError: a firewall is in between")


def test_replica_without_a_connection_fails_where_one_is_wanted(deploy, monkeypatch):
    """With `socket`, a replica without a connection fails the deployment; the error names the option and the reason."""
    monkeypatch.setattr(Address, "connect_socket", no_way)
    with pytest.raises(errors.DeployError, match=r"a firewall is in between, and options\.ray\.calls wants one"):
        deploy("socket")


@pytest.fixture
def far(monkeypatch):
    """Make this process appear to be on another machine."""
    monkeypatch.setattr(transport, "this_machine", lambda: "another")


@pytest.fixture
def tls(tmp_path):
    """The certificates, in the form of the option."""
    return attrs.asdict(Authority(tmp_path / "authority").issue("node"))


@NEEDS_OPENSSL
@pytest.mark.usefixtures("far")
def test_calls_between_machines_use_tls_with_certificates(deploy, tls):
    """
    With certificates in the option, calls between machines use TLS; the replica gets the option too.

    As over TCP, the last messages of a replica may be lost with it.
    """
    env = deploy("socket", {"tls": tls})
    handle = env.service("svc")
    assert handle.echo(b"x" * 2**20) == b"x" * 2**20
    way = transport_of(handle)
    assert (way.pushes, way.exact, way._listener.takes_tls) == (True, False, True)
    assert remarks(env) == []


@NEEDS_OPENSSL
@pytest.mark.usefixtures("far")
def test_calls_are_tasks_where_one_side_has_no_tls(deploy, tls, monkeypatch):
    """If one side has no certificates, no connection is made. Calls are tasks, and an event says why."""
    monkeypatch.setattr(transport, "certificates_here", lambda _: None)
    env = deploy("auto", {"tls": tls})
    handle = env.service("svc")
    assert handle.echo(1) == 1
    assert not transport_of(handle).pushes
    (remark,) = remarks(env)
    assert remark.endswith("ConnectionError: connections there use TLS, and this process has no certificates")


@NEEDS_OPENSSL
@pytest.mark.usefixtures("far")
def test_replica_says_which_file_its_node_lacks(deploy, tls, monkeypatch):
    """If a node lacks a certificate file, the event names the file, without a stack."""
    monkeypatch.setattr(target, "check_certificates", lambda _: None)
    gone = tls["key"] + ".gone"
    (remark,) = remarks(deploy("auto", {"tls": tls | {"key": gone}}))
    assert remark.endswith(f": FileNotFoundError: [Errno 2] No such file or directory: '{gone}'")


def test_deployment_fails_if_the_files_of_the_option_are_not_there(deploy, tmp_path):
    """
    If the option's files do not exist here, the deployment fails. Otherwise only an event would tell of slow calls.
    """
    paths = {name: str(tmp_path / name) for name in ("certificate", "key", "authority")}
    with pytest.raises(errors.DeployError, match=r"options\.ray\.tls cannot be used on this node: .*/certificate'"):
        deploy("auto", {"tls": paths})


@pytest.mark.parametrize("calls", WAYS)
def test_references_travel_whichever_way_calls_go(deploy, calls):
    """References can be sent in arguments, results, errors and stream items, whichever way calls go."""
    handle, reference = deploy(calls).service("svc"), ray.put("value")
    assert {handle.echo(reference) for _ in range(10)} == {"value"}
    assert ray.get(handle.echo([ray.put("inside")])) == ["inside"]
    assert ray.get(handle.put(7)) == [7]
    with pytest.raises(LookupError) as caught:
        handle.fail("in an error")
    assert ray.get(caught.value.args[0]) == ["in an error"]
    assert [ray.get(item) for item in handle.stream("each", 3)] == [[0], [1], [2]]


@pytest.mark.parametrize("calls", WAYS)
@pytest.mark.parametrize("sizes", [[2**20, 2**25], pytest.param([2**26], marks=pytest.mark.slow)], ids=str)
def test_buffers_of_any_size_travel_both_ways(deploy, calls, sizes):
    """Buffers of any size arrive unchanged both ways. Large ones go through Ray's store, and none stays there."""
    handle = deploy(calls).service("svc")
    for size in sizes:
        sent = bytearray(size)
        sent[0], sent[-1] = 1, 2
        came = memoryview(handle.copy(Blob(sent)).data)
        assert (len(came), came[0], came[-1], sum(bytes(came[: 2**16]))) == (size, 1, 2, 1)


@pytest.mark.slow  # `tests/ray/test_carriers.py` has the same rule step by step
def test_same_reference_can_be_passed_again_and_again(deploy):
    """The same reference can be passed again and again. Ray may lose one that returns during its release."""
    handle, reference = deploy("socket").service("svc"), ray.put("value")
    assert {handle.echo(reference) for _ in range(3000)} == {"value"}


@pytest.mark.parametrize("calls", WAYS)
def test_call_ends_with_a_killed_replica(deploy, calls, tmp_path, until):
    """A call ends with its killed replica. The error says that it may have had an effect, and why the process ended."""
    env = deploy(calls)
    handle = env.service("svc")
    pid, begun = handle.pid(), tmp_path / "begun"
    call = handle.submit("hold", str(begun))
    until(begun.exists)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(errors.ReplicaDiedError, match="svc#0 is gone: its process") as caught:
        call.result(20)
    assert caught.value.maybe_executed
    assert handle.echo(2) == 2, "another replica has taken its place"


@pytest.mark.parametrize("calls", WAYS)
def test_handle_that_travels_connects_directly(deploy, calls):
    """A handle that was sent to a replica connects to the service the same way as here."""
    env = deploy(calls, replicas=1)
    fields = {"target": "remote_any", "cpu_cores": 0.01}
    env.register_service_with_config("other", Service, deployment_config=ServiceDeploymentConfig(**fields))
    env.deploy()
    other = env.service("other")

    assert env.service("svc").ask(other, "from there") == ("from there", calls == "socket")


@NEEDS_NAMESPACES
@pytest.mark.slow
@pytest.mark.timeout(180)
class TestBetweenMachines:
    """Two nodes with their own networks, connected by one link."""

    @pytest.fixture
    def variables(self, request, tmp_path):
        """Variables of the nodes and the driver."""
        if not hasattr(request, "param"):
            return {}
        files = Authority(tmp_path / "authority").issue("node", "10.199.77.1", "10.199.77.2", "127.0.0.1")
        return {
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": files.certificate,
            "RAY_TLS_SERVER_KEY": files.key,
            "RAY_TLS_CA_CERT": files.authority,
        }

    @pytest.fixture
    def network(self, ray_folder, tmp_path, variables):
        with Network() as network:
            head = f"{network.addresses[network.near]}:6399"
            options = ["--head", "--port=6399", "--include-dashboard=false", f"--temp-dir={ray_folder}"]
            network.start_node(network.near, *options, **variables)
            # Another folder for its sockets, as on another machine.
            network.start_node(network.far, f"--address={head}", *RAY_PORTS, TMPDIR=str(tmp_path), **variables)
            yield network

    def driver(self, network, tmp_path, **options):
        head = f"{network.addresses[network.near]}:6399"
        return Driver(head, tmp_path / "witness", within=network.within(network.near), **options)

    def test_calls_go_over_tcp(self, network, tmp_path):
        """Calls to the caller's node use a Unix socket, calls to another node TCP; each runs once."""
        with self.driver(network, tmp_path) as driver:
            ways, remarks = driver.do("ways")["answer"]
            assert ways == {"near": [True, True], "far": [True, False]}
            assert remarks == []
            assert [driver.do("call", "run", number)["answer"] for number in range(20)] == list(range(20))
            driver.do("close")
        assert set(Counter(calls_in(tmp_path / "witness")).values()) == {1}

    @NEEDS_OPENSSL
    @pytest.mark.parametrize("variables", ["tls"], indirect=True)
    def test_calls_use_tls_where_ray_does(self, network, tmp_path, variables):
        """If Ray uses TLS, so do calls to the other node, with the certificates of Ray's variables."""
        with self.driver(network, tmp_path, variables=variables) as driver:
            ways, remarks = driver.do("ways")["answer"]
            assert ways == {"near": [True, True], "far": [True, False]}
            assert remarks == []
            assert driver.do("tls")["answer"] == {"near": False, "far": True}
            assert [driver.do("call", "run", number)["answer"] for number in range(20)] == list(range(20))
            driver.do("close")
        assert set(Counter(calls_in(tmp_path / "witness")).values()) == {1}

    @pytest.mark.skipif(shutil.which("nft") is None, reason="a firewall takes nftables")
    def test_calls_are_tasks_through_a_firewall(self, network, tmp_path):
        """If a firewall blocks the connection, an event says which one, and calls arrive as tasks."""
        network.wall_off(network.far)
        with self.driver(network, tmp_path) as driver:
            ways, (remark,) = driver.do("ways")["answer"]
            assert ways == {"near": [True, True], "far": [False, False]}
            assert "there is no connection to 10.199.77.2:" in remark
            assert "on far: TimeoutError" in remark
            assert [driver.do("call", "run", number)["answer"] for number in range(20)] == list(range(20))
            driver.do("close")
        assert set(Counter(calls_in(tmp_path / "witness")).values()) == {1}
