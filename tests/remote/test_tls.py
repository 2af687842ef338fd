"""A TLS connection carries what a plain one does, and refuses peers without the right certificate."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import ssl
import struct
import subprocess
import threading
from contextlib import ExitStack, suppress
from multiprocessing.context import AuthenticationError
from pathlib import Path

import attrs
import pytest

import sage_deploy_remote.rpc.tls
from certificates import Authority
from sage_deploy_remote.rpc.address import Address
from sage_deploy_remote.rpc.certificates import Certificates
from sage_deploy_remote.rpc.server import RpcServer, in_threads
from sage_deploy_remote.rpc.tls import _Pump, _Side, tunnel

PATIENCE = 20.0


class Nothing:
    """The methods of a server that gets no request."""


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def other_authority(tmp_path):
    return Authority(tmp_path / "other")


@pytest.fixture
def tcp(stack):
    """Make a TCP connection; return the connecting end, then the listening end."""

    def make():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            connects = stack.enter_context(socket.create_connection(listener.getsockname()))
            listens = stack.enter_context(listener.accept()[0])
        for end in (connects, listens):
            end.settimeout(PATIENCE)
        return connects, listens

    return make


@pytest.fixture
def tunnels(stack, tcp):
    """Make a TLS connection with each side's certificates; return the connecting side, then the listening side."""

    def make(connects, listens):
        outer = tcp()
        sides = [
            tunnel(outer[0], connects, PATIENCE, listens=False),
            tunnel(outer[1], listens, PATIENCE, listens=True),
        ]
        for side in sides:
            stack.enter_context(side.end).settimeout(PATIENCE)
        return sides

    return make


@pytest.fixture
def ends(tunnels, node_certificates):
    """The two ends of a TLS connection, the connecting one first."""
    sides = tunnels(node_certificates, node_certificates)
    for side in sides:
        side.ready.result(PATIENCE)
    return [side.end for side in sides]


def read(end, size):
    data = bytearray()
    while len(data) < size:
        piece = end.recv(2**20)
        assert piece, f"ended after {len(data)} bytes"
        data += piece
    return bytes(data)


def is_over(end):
    """Wait for the end of the connection; fail if data comes."""
    with suppress(ConnectionError):
        assert end.recv(1) == b""
    return True


def pumps():
    return [thread for thread in threading.enumerate() if thread.name == "tls-tunnel"]


# -- what it carries ---------------------------------------------------------------------------------------------------


def test_small_messages_come_to_and_fro(ends):
    """Small messages go both ways, each as soon as it is sent."""
    ours, theirs = ends
    for number in range(20):
        said = bytes([number]) * number + b"."
        ours.sendall(said)
        assert read(theirs, len(said)) == said
        theirs.sendall(said)
        assert read(ours, len(said)) == said


def test_large_messages_come_both_ways_at_once(ends, in_thread):
    """16 MiB go each way at once and arrive unchanged."""
    said = [os.urandom(2**24) for _ in ends]
    sending = [in_thread(end.sendall, data) for end, data in zip(ends, said, strict=True)]
    reading = [in_thread(read, end, 2**24) for end in ends]
    assert [each.result(PATIENCE) for each in reading] == said[::-1]
    for each in sending:
        each.result(PATIENCE)


@pytest.mark.parametrize("stands_still", [0, 1], ids=["connects", "listens"])
def test_who_does_not_read_is_waited_for(ends, stands_still):
    """If one side does not read, the sender waits: no data is lost, memory is bounded, the other direction works."""
    silent, sender = ends[stands_still], ends[1 - stands_still]
    data = memoryview(os.urandom(2**26))
    sent = 0
    sender.settimeout(0.2)
    with suppress(TimeoutError):
        while sent < len(data):
            sent += sender.send(data[sent : sent + 2**16])
    assert sent < len(data), "so much fits nowhere in between"
    sender.settimeout(PATIENCE)
    for _ in range(10):
        silent.sendall(b"x" * 2**16)
        assert read(sender, 2**16) == b"x" * 2**16
    assert read(silent, sent) == data[:sent]


def test_nobody_on_the_wire_can_read_it(tcp, stack, node_certificates, in_thread):
    """Neither the data nor the certificate can be read on the wire."""
    (ours, tapped), (tapping, theirs) = tcp(), tcp()
    heard = []

    def pass_on(source, target):
        with suppress(OSError):  # the ends are closed
            while data := source.recv(2**16):
                heard.append(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    taps = [in_thread(pass_on, tapped, tapping), in_thread(pass_on, tapping, tapped)]
    sides = [
        tunnel(ours, node_certificates, PATIENCE, listens=False),
        tunnel(theirs, node_certificates, PATIENCE, listens=True),
    ]
    for side in sides:
        stack.enter_context(side.end).settimeout(PATIENCE)
        side.ready.result(PATIENCE)
    sides[0].end.sendall(b"confidential" * 1000)
    assert read(sides[1].end, 12_000) == b"confidential" * 1000
    for side in sides:
        side.end.close()
    for tap in taps:
        tap.result(PATIENCE)
    wire = b"".join(heard)
    assert len(wire) > 12_000
    assert b"confidential" not in wire
    assert ssl.PEM_cert_to_DER_cert(Path(node_certificates.certificate).read_text()) not in wire


LAST_WORDS = """
    import os, pickle, signal, sys
    from threading import Event
    from sage_deploy_remote.rpc.address import Address
    from sage_deploy_remote.rpc.certificates import Certificates
    from sage_deploy_remote.rpc.server import RpcServer, in_threads

    said, over = Event(), Event()

    def say(end):
        end.sendall(bytes(2**23))
        said.set()
        over.wait()

    server = RpcServer(Address.on("127.0.0.1"), in_threads(None), say, Certificates(*sys.argv[1:]))
    print(pickle.dumps(server.address).hex(), flush=True)
    said.wait()
    server.wait_delivered()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_delivered_arrives_though_its_process_is_killed(node_certificates, program):
    """Data reported as delivered arrives even if its process is killed, as with TCP, where the system sends it."""
    command = [*program(LAST_WORDS), *attrs.astuple(node_certificates)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        address = pickle.loads(bytes.fromhex(process.stdout.readline()))  # noqa: S301 - our own
        with address.connect_socket(node_certificates) as end:
            end.settimeout(PATIENCE)
            assert read(end, 2**23) == bytes(2**23)
        assert process.wait(PATIENCE) == -signal.SIGKILL


def test_what_was_delivered_is_known(tunnels, node_certificates, until):
    """`delivered` is false until TCP has taken all data, and true after the connection has ended."""
    ours, theirs = tunnels(node_certificates, node_certificates)
    for side in (ours, theirs):
        side.ready.result(PATIENCE)
    ours.end.settimeout(0.2)
    with suppress(TimeoutError):
        ours.end.sendall(bytes(2**25))
    assert not ours.delivered()
    theirs.end.close()
    until(ours.delivered)


# -- its end -----------------------------------------------------------------------------------------------------------

ENDINGS = {
    "closed": lambda end: end.close(),
    "hung up": lambda end: end.shutdown(socket.SHUT_RDWR),
    "says no more": lambda end: end.shutdown(socket.SHUT_WR),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("first", [0, 1], ids=["connects", "listens"])
def test_end_of_one_side_is_the_end_of_both(ends, first, ending, in_thread, until):
    """When one side ends the connection, both end. All sent data arrives, and the threads stop."""
    ours, theirs = ends[first], ends[1 - first]
    data = os.urandom(2**22)
    reading = in_thread(read, theirs, len(data))
    ours.sendall(data)
    ENDINGS[ending](ours)
    assert reading.result(PATIENCE) == data
    assert is_over(theirs)
    if ending == "says no more":
        assert is_over(ours)
    until(lambda: not pumps())


@pytest.fixture
def looks(monkeypatch):
    """A list that grows each time a tunnel checks its sockets. The tunnel waits only briefly at the end."""
    monkeypatch.setattr(sage_deploy_remote.rpc.tls, "_LAST_S", 0.1)
    looks = []
    wait = _Pump._wait
    monkeypatch.setattr(_Pump, "_wait", lambda self, until: (looks.append(self), wait(self, until))[1])
    return looks


def test_reset_connection_ends(tcp, stack, node_certificates, until):
    """A connection that is reset, as by a killed process or a rebooted machine, ends the tunnel."""
    connects, listens = tcp()
    side = tunnel(listens, node_certificates, PATIENCE, listens=True)
    stack.enter_context(side.end).settimeout(PATIENCE)
    context = node_certificates.context(listens=False)
    with context.wrap_socket(connects) as peer:
        side.ready.result(PATIENCE)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert is_over(side.end)
    until(lambda: not pumps())


def test_what_is_not_from_the_other_side_ends_the_connection(tcp, stack, node_certificates, until):
    """Bytes that a third party puts into the stream end the connection and never reach the user."""
    connects, listens = tcp()
    side = tunnel(listens, node_certificates, PATIENCE, listens=True)
    stack.enter_context(side.end).settimeout(PATIENCE)
    raw = socket.socket(fileno=os.dup(connects.fileno()))
    with raw, node_certificates.context(listens=False).wrap_socket(connects):
        side.ready.result(PATIENCE)
        raw.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))
        assert is_over(side.end)
    until(lambda: not pumps())


@pytest.mark.parametrize("reads", [True, False], ids=["idle", "with much unsent"])
def test_user_that_is_gone_holds_no_thread(tcp, node_certificates, until, looks, reads):
    """When the user closes its end, the thread stops, even if the other side reads nothing."""
    connects, listens = tcp()
    side = tunnel(listens, node_certificates, PATIENCE, listens=True)
    with side.end, node_certificates.context(listens=False).wrap_socket(connects):
        side.ready.result(PATIENCE)
        if not reads:
            side.end.settimeout(0.1)
            with suppress(TimeoutError):
                side.end.sendall(bytes(2**25))
        looks.clear()
        side.end.close()
        until(lambda: not pumps())
    assert len(looks) < 100, "it waits, and does not look again and again"


@pytest.fixture
def left(monkeypatch):
    """An event set when one side of a tunnel accepts no more data."""
    left = threading.Event()
    stop_sending = _Side.stop_sending
    monkeypatch.setattr(_Side, "stop_sending", lambda self: (stop_sending(self), left.set()))
    return left


def test_what_nobody_reads_is_kept(tcp, node_certificates, until, looks, left):
    """Data that the other side sent before it left stays readable; the tunnel meanwhile does not busy-wait."""
    connects, listens = tcp()
    side = tunnel(listens, node_certificates, PATIENCE, listens=True)
    with node_certificates.context(listens=False).wrap_socket(connects) as peer:
        side.ready.result(PATIENCE)
        peer.settimeout(0.1)
        with suppress(TimeoutError):
            peer.sendall(bytes(2**25))
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert left.wait(PATIENCE)
    with side.end as end:
        end.settimeout(PATIENCE)
        assert len(read(end, 2**18)) >= 2**18
        assert len(looks) < 1000
        with suppress(ConnectionError):
            while end.recv(2**20):
                pass
    until(lambda: not pumps())


# -- whom it lets in ---------------------------------------------------------------------------------------------------


def failures(sides):
    return [side.ready.exception(PATIENCE) for side in sides]


def test_process_of_another_authority_is_not_talked_to(tunnels, node_certificates, other_authority):
    """A side does not talk to a process whose certificate is not of the authority that it trusts."""
    foreign = other_authority.issue("foreign")
    sides = tunnels(attrs.evolve(node_certificates, authority=foreign.authority), node_certificates)
    ours, theirs = failures(sides)
    assert isinstance(ours, ConnectionError)
    assert "certificate verify failed" in str(ours)
    assert isinstance(theirs, ConnectionError)
    assert all(is_over(side.end) for side in sides)


def test_process_with_a_certificate_of_another_authority_is_let_in_nowhere(tunnels, node_certificates, other_authority):
    """A process with a certificate of another authority is refused and learns why, although its handshake was done."""
    foreign = attrs.evolve(other_authority.issue("foreign"), authority=node_certificates.authority)
    sides = tunnels(foreign, node_certificates)
    ours, theirs = failures(sides)
    assert "unknown ca" in str(ours)
    assert "certificate verify failed" in str(theirs)
    assert all(is_over(side.end) for side in sides)


def test_process_without_a_certificate_is_not_let_in(tcp, stack, node_certificates):
    """A client without a certificate is refused, even if it speaks TLS."""
    connects, listens = tcp()
    side = tunnel(listens, node_certificates, PATIENCE, listens=True)
    stack.enter_context(side.end).settimeout(PATIENCE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(node_certificates.authority)
    with context.wrap_socket(connects) as peer, pytest.raises(ssl.SSLError, match="certificate required"):
        peer.recv(1)
    assert "did not return a certificate" in str(side.ready.exception(PATIENCE))
    assert is_over(side.end)


def test_side_that_says_nothing_is_not_waited_for(tcp, stack, node_certificates):
    """If the other side is silent, the handshake times out; the error says after how long."""
    connects, _ = tcp()
    side = tunnel(connects, node_certificates, 0.2, listens=False)
    stack.enter_context(side.end)
    with pytest.raises(TimeoutError, match=r"did not agree on TLS within 0\.2 s"):
        side.ready.result(PATIENCE)


@pytest.fixture
def server(request):
    """Make a server, with TLS or without."""

    def make(certificates):
        server = RpcServer(Address.on("127.0.0.1"), in_threads(Nothing()), certificates=certificates)
        request.addfinalizer(server.close)
        return server

    return make


@pytest.mark.parametrize(
    ("theirs", "ours", "reason"),
    [
        (True, False, "connections there use TLS, and this process has no certificates"),
        (False, True, "the process there has no certificates, and this process has some"),
    ],
    ids=["only there", "only here"],
)
def test_both_sides_have_tls_or_neither(server, node_certificates, theirs, ours, reason):
    """If only one side has certificates, the connection is refused before data is sent. The error says which side."""
    address = server(node_certificates if theirs else None).address
    with pytest.raises(ConnectionError, match=reason):
        address.connect(node_certificates if ours else None)


def test_who_speaks_no_tls_is_sent_away(server, node_certificates):
    """A client without TLS is refused, even with the secret."""
    address = attrs.evolve(server(node_certificates).address, takes_tls=False)
    with pytest.raises((EOFError, OSError)):
        address.connect()


def test_server_that_speaks_no_tls_is_not_talked_to(server, node_certificates):
    """A client does not talk to a server without TLS, even if it knows the secret and expects TLS."""
    address = attrs.evolve(server(None).address, takes_tls=True)
    with pytest.raises(ConnectionError, match="no agreement on TLS"):
        address.connect(node_certificates)


def test_nobody_can_sit_in_between(server, node_certificates, authority, stack, in_thread):
    """A proxy with a certificate of the same authority cannot relay: authentication fails before anything is sent."""
    address = server(node_certificates).address
    spy = authority.issue("spy")
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

    def sit_in_between():
        to_caller = tunnel(listener.accept()[0], spy, PATIENCE, listens=True)
        with to_caller.end as caller, address.open(spy) as listens:

            def pass_on(source, target):
                with suppress(OSError):
                    while data := source.recv(2**16):
                        target.sendall(data)

            back = in_thread(pass_on, listens, caller)
            pass_on(caller, listens)
            listens.shutdown(socket.SHUT_RDWR)
            back.result(PATIENCE)

    sitting = in_thread(sit_in_between)
    led_astray = attrs.evolve(address, place=listener.getsockname()[:2])
    with pytest.raises((AuthenticationError, EOFError, ConnectionError)):
        led_astray.connect(node_certificates)
    sitting.result(PATIENCE)
    address.connect(node_certificates).close()


# -- certificates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["certificate", "key", "authority"])
@pytest.mark.parametrize("content", [None, "no certificate"], ids=["missing", "something else"])
def test_file_that_is_not_what_it_should_be_is_named(node_certificates, tmp_path, name, content):
    """A missing or wrong certificate file is named when the server is created, before any connection."""
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_text(content)
    wrong = attrs.evolve(node_certificates, **{name: str(path)})
    with pytest.raises(OSError, match=r"file\.pem"):
        RpcServer(Address.on("127.0.0.1"), in_threads(Nothing()), certificates=wrong)


def test_key_with_a_password_is_refused(authority):
    """A key with a password is refused; nothing asks for the password on the terminal."""
    locked = authority.issue("locked", password="secret")  # noqa: S106 - of a test
    with pytest.raises(OSError, match="must have no password"):
        locked.context(listens=False)


def test_key_of_another_certificate_is_refused(node_certificates, authority):
    """A key that does not belong to the certificate is refused; the error names both files."""
    other = authority.issue("another")
    with pytest.raises(OSError, match=r"node\.pem and .*another\.key are not a certificate in PEM and its key"):
        attrs.evolve(node_certificates, key=other.key).context(listens=True)


def test_relative_path_is_refused():
    """A relative path is refused, because each process has its own working directory."""
    with pytest.raises(ValueError, match="key must be an absolute path"):
        Certificates("/a.pem", "b.key", str(Path("/c.pem")))
