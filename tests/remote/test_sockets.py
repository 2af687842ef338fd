"""Messages over a socket: how they are assembled, who reads them, and that sending never blocks."""

from __future__ import annotations

import contextlib
import pickle
import random
import socket
import subprocess
import sys
import threading
from textwrap import dedent
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_deploy_remote.link import protocol
from sage_deploy_remote.link.serving.pushing import PushedReplies
from sage_deploy_remote.link.sockets.attachments import Attachments
from sage_deploy_remote.link.sockets.connection_reader import ConnectionReader
from sage_deploy_remote.link.sockets.journal import Journal
from sage_deploy_remote.link.sockets.message_socket import MessageSocket
from sage_deploy_remote.link.sockets.messages import MessageAssembler, MessageError, join, pickled
from sage_plugins.clock import SYSTEM

BODIES = st.one_of(st.binary(max_size=40), st.integers(2**16 - 2, 2**18).map(bytes))
MESSAGES = st.lists(st.tuples(BODIES, st.lists(BODIES, max_size=3)), max_size=6)


def fed(messages, data):
    """Yield the messages that *messages* assembles from the next bytes."""
    at = 0
    while at < len(data):
        room = messages.room
        if room is None:
            yield from messages.take(data[at:])
            at = len(data)
        else:
            size = min(len(data) - at, room.nbytes)
            room[:size] = data[at : at + size]
            at += size
            yield from messages.filled(size)


def read_in_pieces(data, cuts):
    """Return the messages in *data* if it arrives cut at *cuts*."""
    messages, found, at = MessageAssembler(), [], 0
    for end in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        found += fed(messages, data[at:end])
        at = end
    return found


@given(MESSAGES, st.lists(st.integers(0, 2**22), max_size=8))
def test_messages_are_the_same_wherever_the_stream_is_cut(sent, cuts):
    """Messages come out whole and in order, wherever the stream is cut."""
    data = b"".join(bytes(part) for body, buffers in sent for part in join(body, buffers))
    found = read_in_pieces(data, cuts)
    assert [(bytes(body), [bytes(each) for each in buffers]) for body, buffers in found] == sent


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_garbage_is_refused_or_waited_for(data, cuts):
    """Random bytes raise only MessageError, and the assembler stores no more than has arrived."""
    try:
        found = read_in_pieces(data, cuts)
    except MessageError:
        return
    assert sum(len(body) for body, _ in found) <= len(data)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_damaged_streams_break_nothing():
    """Messages before the damage are read. After it come messages, a wait for more bytes, or a MessageError."""
    chance = random.Random(18)  # noqa: S311 - the same in every run
    for _ in range(1_000_000):
        sent = [
            (
                chance.randbytes(chance.choice((0, 1, 30))),
                [chance.randbytes(chance.randrange(20))] * chance.randrange(3),
            )
            for _ in range(chance.randrange(1, 4))
        ]
        data = bytearray(b"".join(bytes(part) for message in sent for part in join(*message)))
        damaged = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[damaged] ^= 1 << chance.randrange(8)
            case 1:
                del data[damaged]
            case 2:
                data.insert(damaged, chance.randrange(256))
            case _:
                data[damaged:] = chance.randbytes(chance.randrange(40))
        messages, found = MessageAssembler(), []
        cut = chance.randrange(len(data) + 1)
        with contextlib.suppress(MessageError):
            for piece in (data[:cut], data[cut:]):
                found.extend(fed(messages, bytes(piece)))
        whole, at = 0, 0
        for message in sent:
            at += sum(len(part) for part in join(*message))
            whole += at <= damaged
        assert [(bytes(body), [bytes(each) for each in buffers]) for body, buffers in found[:whole]] == sent[:whole]


@pytest.mark.parametrize("head", [b"\xff" * 12, (2**37).to_bytes(8, "little") + bytes(4), bytes(8) + b"\xff" * 4])
def test_a_size_that_no_message_has_ends_the_connection(head):
    """A size beyond the limit is refused before memory is taken for it."""
    with pytest.raises(MessageError, match="more than any message has"):
        list(MessageAssembler().take(head))


def test_large_buffers_are_left_out_of_the_pickle():
    """Large buffers are sent outside the pickle, small ones inside it."""
    body, buffers = pickled(("small", pickle.PickleBuffer(bytearray(10)), pickle.PickleBuffer(bytearray(2**20))))
    assert len(body) < 200
    assert [each.raw().nbytes for each in buffers] == [2**20]


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    stream = MessageSocket(ours)
    yield stream, theirs
    stream.close()
    theirs.close()


def read_all(end, size):
    data = bytearray()
    while len(data) < size:
        data += end.recv(2**20)
    return bytes(data)


def test_sending_to_a_process_that_stands_still_waits_for_nothing(ends):
    """`send` returns at once even if the other end reads nothing; the buffers may be changed after it."""
    stream, theirs = ends
    large = bytearray(b"a" * 2**23)
    stream.send(b"first", [large])
    large[:] = b"b" * 2**23
    stream.send(b"second")
    assert stream.has_unsent
    expected = b"".join(bytes(part) for part in [*join(b"first", [b"a" * 2**23]), *join(b"second")])
    assert read_all(theirs, len(expected)) == expected


def test_a_connection_that_ends_frees_the_thread_that_sends(ends):
    """When the connection ends, the thread that sends also ends."""
    stream, _ = ends
    stream.send(bytes(2**23))
    (writer,) = [thread for thread in threading.enumerate() if thread.name == "link-writer"]
    stream.close()
    writer.join(10)
    assert not writer.is_alive()
    assert not stream.has_unsent
    assert not stream.all_accepted, "nothing that is sent now arrives"


def test_what_came_before_the_end_can_be_read_after_it(ends):
    """What a process sent before it died is still read, then EOFError follows."""
    stream, theirs = ends
    theirs.sendall(join(b"last words")[0])
    theirs.close()
    stream.hang_up()
    assert list(stream.receive()) == [(b"last words", ())]
    with pytest.raises(EOFError):
        stream.receive()


def test_what_came_before_a_channel_is_closed_is_read_first(ends):
    """Closing a channel first reads the messages that have arrived, such as the start of a call."""
    stream, theirs = ends
    heard = []
    channel = ConnectionReader(
        stream, "reader", lambda message, _: heard.append(message), lambda error: heard.append(type(error)), lambda: 0
    )
    theirs.sendall(join(b"one")[0] + join(b"two")[0])
    channel.close()
    assert heard == [(b"one", ()), (b"two", ()), EOFError]


class Server:
    """The part of `ReplicaServer` that a caller's connection needs."""

    def __init__(self):
        self.callers = set()

    def wake_vacate(self):
        pass


def test_no_call_starts_whose_caller_cannot_be_told(ends):
    """If the caller cannot be told, no call starts: the caller would run it again elsewhere."""
    stream, theirs = ends
    told = PushedReplies(Server(), stream, Attachments(), "caller")
    assert told.record_start(1)
    theirs.close()
    assert not told.record_start(2), "the connection has ended"


DONE, LARGE = (protocol.DONE, 1, (b"answer", (), ())), (protocol.DONE, 2, (bytes(2**13), (), ()))


@pytest.fixture
def journals(ends):
    """The caller's journal, the replica's replies for that caller, and the caller's end of the connection."""
    stream, theirs = ends
    (left, right) = socket.socketpair()
    with left, right:
        ours, replicas = Journal.offer(left), Journal.accept(right)
    told = PushedReplies(Server(), stream, Attachments(), "caller", replicas)
    yield ours, told, theirs
    ours.free()
    told._journal.free()


def sent(theirs):
    """Return the responses that have arrived."""
    theirs.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        return [pickle.loads(body) for body, _ in MessageAssembler().take(theirs.recv(2**16))]  # noqa: S301 - our own
    return []


def test_caller_of_a_killed_replica_finds_what_was_not_sent(journals):
    """Starts and delayed answers of a killed replica are found in the journal, without any message."""
    ours, told, theirs = journals
    assert told.record_start(2)
    told.journal_or_send(DONE)
    assert sent(theirs) == []
    assert ours.close() == (0, [(protocol.STARTING, 2), DONE])


def test_what_was_sent_is_not_found_again_as_another_response(journals):
    """Replies that were sent are in the journal with the number of their response, so they do not count twice."""
    ours, told, theirs = journals
    told.journal_or_send(DONE)
    told.post((protocol.ENDED, 1, 0.0))
    assert sent(theirs) == [(0, [DONE, (protocol.ENDED, 1, 0.0)])]
    assert ours.close()[0] == 0


def test_journal_begins_again_after_a_message(journals):
    """After a message the journal starts empty: it has only what followed the last message."""
    ours, told, _ = journals
    told.journal_or_send(DONE)
    told.post((protocol.ENDED, 1, 0.0))
    told.record_start(2)
    assert ours.close() == (1, [(protocol.STARTING, 2)])


def test_a_message_tells_of_starts_that_no_answer_tells_of(journals):
    """A message lists the calls that have started without an answer, because the journal starts empty after it."""
    _, told, theirs = journals
    for id in (1, 2, 3):
        told.record_start(id)
    told.journal_or_send(DONE)
    told.post((protocol.FAILED, 3, None))
    assert sent(theirs) == [(0, [(protocol.STARTING, 2), DONE, (protocol.FAILED, 3, None)])]


def test_no_call_starts_after_its_caller_has_looked(journals):
    """Once the caller has closed the journal, no call starts, even if the replica only stood still."""
    ours, told, theirs = journals
    theirs.close()
    assert ours.close() == (0, [])
    assert told._socket.all_accepted, "the connection has not said anything yet"
    assert not told.record_start(2)


def test_answer_that_is_large_is_sent_at_once(journals):
    """A large answer is sent at once, and so is anything when the journal is full."""
    _, told, theirs = journals
    told.journal_or_send(LARGE)
    assert sent(theirs) == [(0, [LARGE])]
    starts = 0
    while not sent(theirs):
        starts += 1
        assert told.record_start(starts)
    assert starts > 1000


def test_answer_that_is_held_back_leaves_when_its_bundle_is_due(ends):
    """A delayed answer is sent when its time is up, so it does not wait for a slow next call."""
    stream, theirs = ends
    told = PushedReplies(Server(), stream, Attachments(), "caller")
    told.post((protocol.ENDED, 1, 0.0), wakes=False)
    told.watch(SimpleNamespace(due=SYSTEM.monotonic(), waiting=(), give_back=lambda: None))
    theirs.settimeout(20)
    (message,) = MessageAssembler().take(theirs.recv(2**16))
    assert pickle.loads(message[0]) == (0, [(protocol.ENDED, 1, 0.0)])  # noqa: S301 - our own


@pytest.mark.parametrize("seconds", [30 * 86_400.0, 1e9])
def test_wait_may_take_as_long_as_any_timeout(seconds):
    """A wait on a connection takes every timeout that a configuration may have, although `poll` does not."""
    here, there = socket.socketpair()
    with there:
        there.send(b"something")
        end = MessageSocket(here)
        assert end.wait(seconds)
        end.close()


NO_THREAD = """
    import mmap, resource, socket, threading
    from multiprocessing import Pipe
    from sage_deploy_remote.link.sockets.message_socket import MessageSocket
    from sage_deploy_remote.rpc.client import RpcClient

    here, there = socket.socketpair()
    end, large = MessageSocket(here), bytes(2**23)
    begin, (near, far) = threading.Event(), Pipe()
    client = RpcClient(lambda: begin.wait() and near, "client")
    with open("/proc/self/statm") as sizes:
        size = int(sizes.read().split()[0]) * mmap.PAGESIZE
    threading.stack_size(2**28)
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**26, -1))

    end.send(large)
    print(end.all_accepted, end.has_unsent)
    while there.recv(2**20):
        pass
    begin.set()
    print(client.ended.exception(20))
"""


def test_connection_for_which_there_is_no_thread_ends():
    """Without free threads, a connection that needs one ends, so that its users fail instead of waiting."""
    done = subprocess.run(
        [sys.executable, "-c", dedent(NO_THREAD)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "False False\ncan't start new thread\n", done.stderr
