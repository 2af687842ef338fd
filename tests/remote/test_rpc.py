"""Methods of another process are called over a socket; here both processes are one."""

from __future__ import annotations

import gc
import os
import pickle
import stat
import threading
import weakref
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from multiprocessing import Pipe
from multiprocessing.context import AuthenticationError
from pathlib import Path

import attrs
import pytest

import sage_deploy_remote.rpc.server
from sage_deploy_remote.rpc.address import Address, hang_up
from sage_deploy_remote.rpc.client import RpcClient
from sage_deploy_remote.rpc.server import RpcServer, serve

PATIENCE = 20.0


class Unreadable:
    """Can be sent, and not be read."""

    def __reduce__(self):
        return _fail, ()


def _fail():
    raise ImportError("no module named so")


class Methods:
    """What is called; `hold` is answered when the test says so."""

    def __init__(self):
        self.held = []
        self.came = threading.Semaphore(0)

    def __call__(self, method, *arguments):
        answer = Future()
        if method == "hold":
            self.held.append(answer)
            self.came.release()
            return answer
        try:
            answer.set_result(getattr(self, method)(*arguments))
        except Exception as error:  # noqa: BLE001 - the caller's
            answer.set_exception(error)
        return answer

    def echo(self, value):
        return value

    def fail(self):
        raise LookupError("there is none")

    def give(self):
        return Unreadable()

    def give_lock(self):
        return threading.Lock()

    def wait_held(self):
        assert self.came.acquire(timeout=PATIENCE)


@pytest.fixture
def methods():
    return Methods()


@pytest.fixture(params=["unix", "tcp", "tls"])
def way(request):
    return request.param


@pytest.fixture
def certificates(way, request):
    return request.getfixturevalue("node_certificates") if way == "tls" else None


@pytest.fixture
def server(way, methods, certificates):
    address = Address.new() if way == "unix" else Address.on("127.0.0.1")
    server = RpcServer(address, methods, certificates=certificates)
    yield server
    server.close()


@pytest.fixture
def address(server):
    return server.address


@pytest.fixture
def connect(address, certificates):
    return partial(address.connect, certificates)


@pytest.fixture
def client(server, connect):
    client = RpcClient(connect, "client")
    yield client
    client.close()


def failure(answer):
    return answer.exception(PATIENCE)


def test_each_answer_finds_its_request(client, methods):
    """Also if a later request is answered first."""
    first = client.request("hold")
    assert client.request("echo", {"a": 1}).result(PATIENCE) == {"a": 1}
    methods.wait_held()
    methods.held[0].set_result("first")
    assert first.result(PATIENCE) == "first"


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (("fail",), LookupError),
        (("echo", threading.Lock()), TypeError),
        (("echo", Unreadable()), ImportError),
        (("give",), ImportError),
        (("give_lock",), TypeError),
        (("unknown",), AttributeError),
    ],
    ids=["raises", "cannot be sent", "cannot be read there", "cannot be read here", "cannot be sent back", "unknown"],
)
def test_request_that_fails_fails_alone(client, request_, error):
    """Its future has the error; the connection goes on."""
    assert isinstance(failure(client.request(*request_)), error)
    assert client.request("echo", 1).result(PATIENCE) == 1


def test_requests_fail_when_the_other_end_is_closed(methods):
    """Those on their way, later ones, and `ended`, which tells of it though nobody asks."""
    ours, theirs = Pipe()
    serving = threading.Thread(target=serve, args=(theirs, methods))
    serving.start()
    client = RpcClient(lambda: ours, "client")
    answer = client.request("hold")
    methods.wait_held()
    hang_up(theirs)
    serving.join(PATIENCE)
    theirs.close()
    for failed in (answer, client.ended, client.request("echo", 1)):
        assert isinstance(failure(failed), ConnectionResetError)
    client.close()


def test_request_to_nobody_fails(server, connect):
    """It does not matter whether it is made before that is found out."""
    server.close()
    client = RpcClient(connect, "client")
    assert isinstance(failure(client.request("echo", 1)), (FileNotFoundError, ConnectionRefusedError))
    assert isinstance(failure(client.request("echo", 1)), (FileNotFoundError, ConnectionRefusedError))
    client.close()


def test_who_does_not_know_the_secret_is_refused(client, address, certificates):
    """The others do not notice."""
    stranger = RpcClient(partial(attrs.evolve(address, key=b"guessed").connect, certificates), "stranger")
    assert isinstance(failure(stranger.request("echo", 1)), AuthenticationError)
    stranger.close()
    assert client.request("echo", 1).result(PATIENCE) == 1


def test_who_sends_back_what_it_gets_proves_nothing(client, address, certificates):
    """The server's own answers are no answers to it."""
    with address.open(certificates) as end:
        end.settimeout(PATIENCE)
        with suppress(ConnectionError):
            while data := end.recv(4096):
                end.sendall(data)
    assert client.request("echo", 1).result(PATIENCE) == 1


def test_who_says_nothing_is_sent_away_and_holds_nobody_up(server, address, connect, monkeypatch):
    """A port scanner, or a caller that stands still, takes no one's turn, and does not stay."""
    monkeypatch.setattr(sage_deploy_remote.rpc.server, "PROOF_WITHIN_S", 1)
    with address.dial() as silent:
        client = RpcClient(connect, "client")
        assert client.request("echo", 1).result(PATIENCE) == 1
        silent.settimeout(PATIENCE)
        while silent.recv(4096):
            pass
        assert client.request("echo", 2).result(PATIENCE) == 2
        client.close()


def test_address_is_private_and_leaves_nothing(methods):
    """Only this user may enter the folder; the secret is in the pickle and in no text; the end removes all."""
    address = Address.new()
    server = RpcServer(address, methods)
    folder = Path(address.place).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert repr(address.key) not in repr(address)
    assert pickle.loads(pickle.dumps(address)) == address  # noqa: S301 - our own
    server.close()
    assert not folder.exists()


def test_end_of_the_server_ends_its_connections(server, client, methods):
    """Those who wait for an answer find it."""
    answer = client.request("hold")
    methods.wait_held()
    server.close()
    assert isinstance(failure(answer), ConnectionResetError)


def test_request_whose_caller_is_gone_is_cancelled(client, methods, until):
    """Whoever answers need not go on."""
    client.request("hold")
    methods.wait_held()
    client.close()
    until(methods.held[0].cancelled)


def test_client_that_nobody_uses_is_let_go_of(server, connect, methods, until):
    """Its connection and its threads end, even while a request is not answered."""
    client = RpcClient(connect, "forgotten")
    client.request("hold")
    methods.wait_held()
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
    until(lambda: not any(thread.name.startswith("forgotten") for thread in threading.enumerate()))
    until(methods.held[0].cancelled)


def test_client_whose_end_was_noticed_is_let_go_of(server, connect):
    """An error leads to the frames that it was raised through, and these to the client."""

    class User:
        def __init__(self):
            self.client = RpcClient(connect, "forgotten")

        def wait(self):
            with pytest.raises(ConnectionResetError):
                self.client.ended.result(PATIENCE)

    user = User()
    assert user.client.request("echo", 0).result(PATIENCE) == 0
    server.close()
    user.wait()
    gone = weakref.ref(user)
    del user
    gc.collect()
    assert gone() is None


def test_client_in_a_forked_child_leaves_the_connection_alone(client):
    """It is the parent's."""
    assert client.request("echo", 0).result(PATIENCE) == 0
    child = os.fork()
    if not child:
        client._state.hang_up()
        os._exit(0)
    os.waitpid(child, 0)
    assert client.request("echo", 1).result(PATIENCE) == 1
