"""How calls reach replicas on Ray: over a socket, or as Ray's tasks where there is none or none is wanted."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import threading
from collections import Counter

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

#: Of a Ray node, so that a firewall can tell them from those of others.
RAY_PORTS = [
    "--node-manager-port=30001",
    "--object-manager-port=30002",
    "--min-worker-port=31000",
    "--max-worker-port=32000",
]


class Blob:
    """Bytes that are not copied into a pickle."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Blob, (pickle.PickleBuffer(self.data),)


class Service:
    """What the tests call."""

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

    def hold(self, signal_):
        ray.get(signal_[0].told.remote())
        threading.Event().wait()

    def ask(self, handle, value):
        return handle.echo(value), handle._bound.binding.router.lanes[0].replica._transport.pushes


@ray.remote(num_cpus=0, max_concurrency=2)
class Signal:
    """Tells that something has happened."""

    def __init__(self):
        self._told = threading.Event()

    def told(self):
        self._told.set()

    def wait(self):
        return self._told.wait(60)


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
    """Where there is a connection `auto` takes it; nothing is remarked then."""
    env = deploy(calls)
    handle = env.service("svc")
    assert handle.echo(1) == 1
    assert transport_of(handle).pushes is pushes
    assert remarks(env) == []


def no_way(_address, _certificates):
    raise ConnectionRefusedError("a firewall is in between")


def test_calls_are_tasks_where_there_is_no_connection(deploy, monkeypatch):
    """An event says why, and where there was to be one."""
    monkeypatch.setattr(Address, "connect_socket", no_way)
    env = deploy("auto")
    assert env.service("svc").echo(1) == 1
    (remark,) = remarks(env)
    assert remark.startswith("its calls are tasks of Ray, which are slower: there is no connection to ")
    assert remark.endswith("ConnectionRefusedError: a firewall is in between")


def test_replica_without_a_connection_fails_where_one_is_wanted(deploy, monkeypatch):
    """The error names the option, and why there is none."""
    monkeypatch.setattr(Address, "connect_socket", no_way)
    with pytest.raises(errors.DeployError, match=r"a firewall is in between, and options\.ray\.calls wants one"):
        deploy("socket")


@pytest.fixture
def far(monkeypatch):
    """This process passes for one on another machine."""
    monkeypatch.setattr(transport, "this_machine", lambda: "another")


@pytest.fixture
def tls(tmp_path):
    """As the option says it."""
    return attrs.asdict(Authority(tmp_path / "authority").issue("node"))


@NEEDS_OPENSSL
@pytest.mark.usefixtures("far")
def test_calls_between_machines_use_tls_with_certificates(deploy, tls):
    """The replica gets the option, too. As over TCP, what it has said may be lost with it."""
    env = deploy("socket", {"tls": tls})
    handle = env.service("svc")
    assert handle.echo(b"x" * 2**20) == b"x" * 2**20
    way = transport_of(handle)
    assert (way.pushes, way.exact, way._listener.takes_tls) == (True, False, True)
    assert remarks(env) == []


@NEEDS_OPENSSL
@pytest.mark.usefixtures("far")
def test_calls_are_tasks_where_one_side_has_no_tls(deploy, tls, monkeypatch):
    """No connection is made without TLS; the event says why."""
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
    """Without the stack of where it was found there."""
    monkeypatch.setattr(target, "check_certificates", lambda _: None)
    gone = tls["key"] + ".gone"
    (remark,) = remarks(deploy("auto", {"tls": tls | {"key": gone}}))
    assert remark.endswith(f": FileNotFoundError: [Errno 2] No such file or directory: '{gone}'")


def test_deployment_fails_if_the_files_of_the_option_are_not_there(deploy, tmp_path):
    """Else calls would be slow, and only an event would say why."""
    paths = {name: str(tmp_path / name) for name in ("certificate", "key", "authority")}
    with pytest.raises(errors.DeployError, match=r"options\.ray\.tls cannot be used on this node: .*/certificate'"):
        deploy("auto", {"tls": paths})


@pytest.mark.parametrize("calls", WAYS)
def test_references_travel_whichever_way_calls_go(deploy, calls):
    """As arguments, as results, inside errors and as items of a stream."""
    handle = deploy(calls).service("svc")
    assert handle.echo(ray.put("value")) == "value"
    assert ray.get(handle.echo([ray.put("inside")])) == ["inside"]
    assert ray.get(handle.put(7)) == [7]
    with pytest.raises(LookupError) as caught:
        handle.fail("in an error")
    assert ray.get(caught.value.args[0]) == ["in an error"]
    assert [ray.get(item) for item in handle.stream("each", 3)] == [[0], [1], [2]]


@pytest.mark.parametrize("calls", WAYS)
@pytest.mark.parametrize("size", [2**20, 2**25, 2**26])
def test_buffers_of_any_size_travel_both_ways(deploy, calls, size):
    """Large ones lie in Ray's store on their way; what arrives is the same, and nothing is kept of it."""
    handle = deploy(calls).service("svc")
    sent = bytearray(size)
    sent[0], sent[-1] = 1, 2
    came = memoryview(handle.copy(Blob(sent)).data)
    assert (len(came), came[0], came[-1], sum(bytes(came[: 2**16]))) == (size, 1, 2, 1)


def test_same_reference_can_be_passed_again_and_again(deploy):
    """Ray loses sight of one that comes again while it is let go of; one in a thousand calls would never end."""
    handle, reference = deploy("socket").service("svc"), ray.put("value")
    assert {handle.echo(reference) for _ in range(3000)} == {"value"}


@pytest.mark.parametrize("calls", WAYS)
def test_call_ends_with_a_killed_replica(deploy, calls):
    """Its error says that it may have had its effect, and what has become of the process."""
    env = deploy(calls)
    handle = env.service("svc")
    pid, told = handle.pid(), Signal.remote()
    call = handle.submit("hold", [told])
    assert ray.get(told.wait.remote())
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(errors.ReplicaDiedError, match="svc#0 is gone: its process") as caught:
        call.result(20)
    assert caught.value.maybe_executed
    assert handle.echo(2) == 2, "another replica has taken its place"


@pytest.mark.parametrize("calls", WAYS)
def test_handle_that_travels_connects_directly(deploy, calls):
    """The replica to which it came calls the other one the same way."""
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
    """Two nodes with a network each; what they have in common is their wire."""

    @pytest.fixture
    def variables(self, request, tmp_path):
        """Of the nodes and the driver."""
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
        """To the node of the caller over a Unix socket, to the other one over TCP; each runs once."""
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
        """With the certificates of its variables, to the other node alone."""
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
        """The event says which connection was not made; calls arrive all the same."""
        network.wall_off(network.far)
        with self.driver(network, tmp_path) as driver:
            ways, (remark,) = driver.do("ways")["answer"]
            assert ways == {"near": [True, True], "far": [False, False]}
            assert "there is no connection to 10.199.77.2:" in remark
            assert "on far: TimeoutError" in remark
            assert [driver.do("call", "run", number)["answer"] for number in range(20)] == list(range(20))
            driver.do("close")
        assert set(Counter(calls_in(tmp_path / "witness")).values()) == {1}
