"""Clients that leave, wait, read slowly or are many: real sockets against a real server."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import threading
from contextlib import closing

import pytest

from sage_deploy_server import serve
from sage_plugins import Environment, ServiceDeploymentConfig

TOKEN = "t" * 64
MANY, HALVES, SLOTS = 1_000, 200, 2
#: The bytes of one item of a stream; and more bytes than both sockets and the server can buffer together.
ITEM, HELD = 2**16, 2**25


class Room:
    """A service whose methods record how they end, and wait for the test."""

    entered, door, produced = threading.Semaphore(0), threading.Event(), 0
    ended: list[str] = []  # noqa: RUF012 - the fixture replaces it, like the others

    def add(self, a: int, b: int) -> int:
        return a + b

    def wait(self, value: int) -> int:
        Room.entered.release()
        while not Room.door.wait(0.005):
            if self.ctx.cancelled:
                Room.ended.append("wait")
                return -1
        return value

    async def await_it(self, value: int) -> int:
        Room.entered.release()
        try:
            await asyncio.Event().wait()
        finally:
            Room.ended.append("await_it")
        return value

    def note(self, value: int) -> None:
        Room.ended.append(f"note {value}")

    def big(self) -> str:
        return "x" * HELD

    def flow(self, to: int):
        try:
            for _ in range(to):
                Room.produced += 1
                Room.entered.release()
                yield "x" * ITEM
        finally:
            Room.ended.append("flow")

    def slow_flow(self):
        try:
            yield 1
            Room.entered.release()
            Room.door.wait()
            yield 2
        finally:
            Room.ended.append("slow_flow")


@pytest.fixture(autouse=True)
def room():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MANY if hard == resource.RLIM_INFINITY else min(hard, 4 * MANY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    Room.entered, Room.door, Room.produced, Room.ended = threading.Semaphore(0), threading.Event(), 0, []
    yield Room
    Room.door.set()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _environment(**config):
    env = Environment("limits")
    deployment = ServiceDeploymentConfig(timeout=100, queue_size=2 * MANY, **config)
    env.register_service_with_config("room", Room, deployment_config=deployment)
    env.deploy()
    return env


@pytest.fixture
def env():
    with _environment(
        threading_strategy="pool", thread_count=SLOTS, options={"pool": {"idle_timeout": 100}}, thread_pool_size=SLOTS
    ) as env:
        yield env


@pytest.fixture
def server(env):
    with serve(env, "127.0.0.1:0", token=TOKEN) as server:
        yield server


def _request(method, body, *, promised=0):
    data = json.dumps(body).encode()
    head = f"POST /services/room/{method} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % (len(data) + promised) + data


def _connect(server, data, *, room_to_read=None):
    """Open a connection, and send *data*."""
    connection = socket.socket()
    if room_to_read is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room_to_read)
    connection.settimeout(100)
    connection.connect(server.address)
    connection.sendall(data)
    return connection


def _answer(connection):
    """Read an answer; return its status and body."""
    file = connection.makefile("rb")
    status = int(file.readline().split()[1])
    length = 0
    while (line := file.readline().strip()) != b"":
        if line.lower().startswith(b"content-length:"):
            length = int(line[15:])
    return status, file.read(length)


def _call(server, method, body):
    with closing(_connect(server, _request(method, body))) as connection:
        return _answer(connection)


def _occupied(env):
    return sum(each["inflight"] for each in env.status()["services"]["room"]["replicas"])


# -- clients that leave ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["pool", "async", "inline"])
def test_the_call_of_a_client_that_leaves_is_cancelled_and_frees_its_slot(strategy, until, caplog):
    """When a client leaves, its call is cancelled and its slot is free."""
    method = "await_it" if strategy == "async" else "wait"
    with _environment(threading_strategy=strategy) as env, serve(env, "127.0.0.1:0", token=TOKEN) as server:
        connection = _connect(server, _request(method, {"value": 1}))
        Room.entered.acquire()
        connection.close()
        until(lambda: Room.ended == [method])
        until(lambda: _occupied(env) == 0)
        assert _call(server, "add", [1, 2]) == (200, b"3")
    assert not caplog.records


def test_a_call_that_waits_in_the_queue_never_runs_if_its_client_leaves(env, server, until, caplog):
    """A queued call never runs if its client leaves."""
    holding = [_connect(server, _request("wait", [1])) for _ in range(SLOTS)]
    for _ in holding:
        Room.entered.acquire()
    metrics = lambda: env.status()["services"]["room"]["metrics"]  # noqa: E731 - short
    leaving = _connect(server, _request("note", [1]))
    until(lambda: metrics()["queue_size"] == 1)
    leaving.close()
    until(lambda: metrics()["queue_size"] == 0)
    Room.door.set()
    assert [_answer(each) for each in holding] == [(200, b"1")] * SLOTS
    assert _call(server, "note", [2]) == (200, b"null")
    assert Room.ended == ["note 2"]
    for each in holding:
        each.close()
    assert not caplog.records


def test_the_stream_of_a_client_that_leaves_is_closed_and_frees_its_slot(env, server, until, caplog):
    """When a client leaves, its stream is closed and its slot is free."""
    connection = _connect(server, _request("slow_flow", []))
    Room.entered.acquire()
    connection.recv(1)
    connection.close()
    Room.door.set()
    until(lambda: Room.ended == ["slow_flow"])
    until(lambda: _occupied(env) == 0)
    assert not caplog.records


def test_a_client_that_leaves_within_its_request_is_no_error(server, until, caplog):
    """A client that leaves during its request causes no error in the log."""
    for _ in range(5):
        _connect(server, _request("add", [1, 2], promised=9)).close()
    assert _call(server, "add", [1, 2]) == (200, b"3")
    until(lambda: not server._servers[0][0].server_state.tasks)
    assert not caplog.records


# -- clients that read slowly ------------------------------------------------------------------------------------------


def test_a_stream_stands_still_while_its_client_does_not_read_and_ends_when_it_leaves(env, server, until):
    """A stream pauses while its client does not read, and ends when the client leaves."""
    most = 8 * HELD // ITEM
    connection = _connect(server, _request("flow", [most]), room_to_read=2**12)
    Room.entered.acquire()
    seen = []

    def stands_still():
        _call(server, "add", [1, 2])  # other calls are answered meanwhile
        seen.append(Room.produced)
        return len(seen) >= 50 and len(set(seen[-50:])) == 1

    until(stands_still)
    assert Room.produced <= HELD // ITEM
    connection.close()
    until(lambda: Room.ended == ["flow"])
    until(lambda: _occupied(env) == 0)
    assert Room.produced < most


def test_clients_that_send_half_a_request_or_do_not_read_harm_nobody_and_do_not_delay_the_end(env, caplog, until):
    """Clients that send half a request or do not read harm no other client, and do not delay the server's end."""
    caplog.set_level("ERROR")
    whole = _request("add", [1, 2])
    unread = 5
    with serve(env, "127.0.0.1:0", token=TOKEN) as server:
        halves = [_connect(server, whole[: 40 + number % 2 * (len(whole) - 41)]) for number in range(HALVES)]
        unread_ones = [_connect(server, _request("big", []), room_to_read=2**12) for _ in range(unread)]
        streaming = _connect(server, _request("flow", [8 * HELD // ITEM]), room_to_read=2**12)
        Room.entered.acquire()
        assert [_call(server, "add", [number, 1]) for number in range(20)] == [
            (200, b"%d" % (number + 1)) for number in range(20)
        ]
        until(lambda: len(server._servers[0][0].server_state.connections) >= HALVES + unread + 1)
    # uvicorn would log an error if it had waited for its limit, 30 s.
    assert not caplog.records
    until(lambda: Room.ended == ["flow"])
    for each in (*halves, *unread_ones, streaming):
        each.close()


def test_what_was_accepted_is_answered_at_the_end(env):
    """Closing the server waits for calls that were accepted, and answers them."""
    with serve(env, "127.0.0.1:0", token=TOKEN) as server:
        connection = _connect(server, _request("wait", [7]))
        Room.entered.acquire()
        ending = threading.Thread(target=server.close)
        ending.start()
        Room.door.set()
        assert _answer(connection) == (200, b"7")
        ending.join()
        connection.close()


# -- many clients ------------------------------------------------------------------------------------------------------


def test_a_thousand_connections_are_answered_without_a_thread_for_each(env, server, until):
    """A thousand connections are answered without one thread each."""
    before = threading.active_count()
    connections = [_connect(server, _request("wait", [number])) for number in range(MANY)]
    until(lambda: env.status()["services"]["room"]["metrics"]["queue_size"] == MANY - SLOTS)
    assert threading.active_count() <= before + SLOTS
    Room.door.set()
    assert [_answer(each) for each in connections] == [(200, b"%d" % number) for number in range(MANY)]
    for each in connections:
        each.close()


@pytest.mark.parametrize("headers", [{}, {"X-Timeout": "50", "X-Key": "k"}], ids=["plain", "with options"])
@pytest.mark.parametrize("strategy", ["inline", "single"])
def test_no_request_starts_a_thread(strategy, headers, monkeypatch):
    """No request starts a thread, except the first: it binds a handle, and no idle thread exists yet."""
    with _environment(threading_strategy=strategy) as env, serve(env, "127.0.0.1:0", token=TOKEN) as server:
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
        request = _request("add", [1, 2]).replace(b"\r\n\r\n", b"\r\n" + more + b"\r\n")
        with closing(_connect(server, request)) as connection:
            assert _answer(connection) == (200, b"3")
            started = []
            start = threading.Thread.start
            monkeypatch.setattr(threading.Thread, "start", lambda self: (started.append(self.name), start(self)))
            for _ in range(50):
                connection.sendall(request)
                assert _answer(connection) == (200, b"3")
    assert len(started) <= 2, started


def test_an_answer_does_not_wait_for_the_clients_acknowledgement(server):
    """An answer does not wait for the client's ACK: with Nagle's algorithm its second packet would come 40 ms later."""
    with closing(_connect(server, _request("add", [1, 2]))) as connection:
        assert _answer(connection) == (200, b"3")
        (held,) = server._servers[0][0].server_state.connections
        assert held.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
