"""Calling methods of another process over a socket. Here both ends are in one process."""

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
    """Can be pickled, but not unpickled."""

    def __reduce__(self):
        return _fail, ()


def _fail():
    raise ImportError("no module named so")


class Methods:
    """The methods that are called. A `hold` is answered when the test sets its result."""

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
    """Each answer goes to its request, even if a later request is answered first."""
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
    """A request that fails sets its own future only; the connection stays usable."""
    assert isinstance(failure(client.request(*request_)), error)
    assert client.request("echo", 1).result(PATIENCE) == 1


def test_requests_fail_when_the_other_end_is_closed(methods):
    """When the other end closes, pending and later requests fail, and so does `ended`."""
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
    """If nobody listens, every request fails, the first and later ones."""
    server.close()
    client = RpcClient(connect, "client")
    assert isinstance(failure(client.request("echo", 1)), (FileNotFoundError, ConnectionRefusedError))
    assert isinstance(failure(client.request("echo", 1)), (FileNotFoundError, ConnectionRefusedError))
    client.close()


def test_who_does_not_know_the_secret_is_refused(client, address, certificates):
    """A client with the wrong secret is refused; other clients are not affected."""
    stranger = RpcClient(partial(attrs.evolve(address, key=b"guessed").connect, certificates), "stranger")
    assert isinstance(failure(stranger.request("echo", 1)), AuthenticationError)
    stranger.close()
    assert client.request("echo", 1).result(PATIENCE) == 1


def test_who_sends_back_what_it_gets_proves_nothing(client, address, certificates):
    """A client that echoes the server's messages does not authenticate."""
    with address.open(certificates) as end:
        end.settimeout(PATIENCE)
        with suppress(ConnectionError):
            while data := end.recv(4096):
                end.sendall(data)
    assert client.request("echo", 1).result(PATIENCE) == 1


def test_who_says_nothing_is_sent_away_and_holds_nobody_up(server, address, connect, monkeypatch):
    """A silent connection is closed after a time and blocks no other client."""
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
    """
    Only this user may enter the address's folder, and closing removes it. The pickle has the secret, `repr` does not.
    """
    address = Address.new()
    server = RpcServer(address, methods)
    folder = Path(address.place).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert repr(address.key) not in repr(address)
    assert pickle.loads(pickle.dumps(address)) == address  # noqa: S301 - our own
    server.close()
    assert not folder.exists()


def test_end_of_the_server_ends_its_connections(server, client, methods):
    """Closing the server ends its connections, so pending requests fail."""
    answer = client.request("hold")
    methods.wait_held()
    server.close()
    assert isinstance(failure(answer), ConnectionResetError)


def test_request_whose_caller_is_gone_is_cancelled(client, methods, until):
    """When a caller's connection ends, its request is cancelled."""
    client.request("hold")
    methods.wait_held()
    client.close()
    until(methods.held[0].cancelled)


def test_client_that_nobody_uses_is_let_go_of(server, connect, methods, until):
    """An unused client is garbage collected, even with a request open. Its connection and threads end."""
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
    """A client whose connection has ended is garbage collected, although the raised error refers to its frames."""

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
    """A forked child that hangs up does not close the parent's connection."""
    assert client.request("echo", 0).result(PATIENCE) == 0
    child = os.fork()
    if not child:
        client._state.hang_up()
        os._exit(0)
    os.waitpid(child, 0)
    assert client.request("echo", 1).result(PATIENCE) == 1
