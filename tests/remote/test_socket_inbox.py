"""Idle workers read the connections of their replica. While all are busy, a standby thread reads."""

from __future__ import annotations

import socket
import threading
from queue import Empty, SimpleQueue
from types import SimpleNamespace

import pytest

from sage_deploy_remote.link.sockets.socket_inbox import SocketInbox

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not SocketInbox.possible(), reason="the system has no epoll or no eventfd"),
]

PATIENCE = 30
QUICK, SLOW = 0, 1


class Line:
    """A connection on which each byte is a call of the method with that index."""

    def __init__(self, inbox):
        self.far, self._near = socket.socketpair()
        self.fileno = self._near.fileno
        self.readers = []
        self.over = SimpleQueue()
        self._inbox = inbox

    def read(self):
        self.readers.append(threading.current_thread().name)
        data = self._near.recv(100)
        if not data:
            raise EOFError
        for index in data:
            self._inbox.put(SimpleNamespace(method=SimpleNamespace(index=index)))

    def ended(self, error):
        self._near.close()
        self.over.put(error)

    def send(self, *indices):
        self.far.send(bytes(indices))

    def close(self):
        self.far.close()
        return self.over.get(timeout=PATIENCE)


@pytest.fixture
def inbox():
    inbox = SocketInbox({QUICK})
    yield inbox
    if inbox._epoll is not None:
        inbox._free()


@pytest.fixture
def line(inbox):
    line = Line(inbox)
    assert inbox.read_connection(line)
    yield line
    if line.far.fileno() != -1:
        line.close()
    for thread in threading.enumerate():
        if thread.name == "socket_inbox":
            thread.join(PATIENCE)


class Workers:
    """Threads that report what they fetch, and wait until the test lets them go on."""

    def __init__(self, inbox):
        self._inbox = inbox
        self._workers_fetch = SimpleQueue()
        self._goes_on = {}
        self.threads = []

    def start(self, *names):
        for name in names:
            self._goes_on[name] = SimpleQueue()
            self.threads.append(threading.Thread(target=self._work, args=(name,), name=name, daemon=True))
            self.threads[-1].start()

    def _work(self, name):
        for call in iter(self._inbox.get, None):
            self._workers_fetch.put((name, call if isinstance(call, str) else call.method.index))
            self._goes_on[name].get(timeout=PATIENCE)

    def fetched(self):
        """Return the name of a worker and what it has fetched."""
        return self._workers_fetch.get(timeout=PATIENCE)

    def go_on(self, name):
        self._goes_on[name].put(None)

    def run(self):
        """Let the next worker that fetches something go on; return what it fetched."""
        name, what = self.fetched()
        self.go_on(name)
        return what


@pytest.fixture
def workers(inbox):
    workers = Workers(inbox)
    yield workers
    for _ in workers.threads:
        inbox.put(None)
    for thread in workers.threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in workers.threads)


def test_an_idle_worker_reads_what_it_runs(line, workers):
    """An idle worker reads the calls that it runs. The standby thread may read the first ones."""
    workers.start("one")
    for _ in range(50):
        line.send(QUICK)
        assert workers.run() == QUICK
    assert "one" in line.readers


def test_work_from_elsewhere_wakes_the_worker_that_reads(inbox, line, workers):
    """Work put into the inbox wakes the worker that waits for the connections."""
    workers.start("one")
    for number in range(20):
        line.send(QUICK)
        assert workers.run() == QUICK
        inbox.put(f"step {number}")
        assert workers.run() == f"step {number}"


@pytest.mark.parametrize("kind", [QUICK, SLOW])
def test_calls_are_read_and_run_while_another_takes_long(line, workers, kind):
    """While one worker runs a long call, the other reads and runs calls. Calls expected to be fast are no exception."""
    workers.start("one", "two")
    line.send(kind)
    stays, _ = workers.fetched()
    for _ in range(20):
        line.send(kind, kind)
        for _ in range(2):
            name, what = workers.fetched()
            assert (name != stays, what) == (True, kind)
            workers.go_on(name)
    workers.go_on(stays)


@pytest.mark.parametrize("calls", [(QUICK, QUICK), (SLOW, QUICK), (QUICK, SLOW)])
def test_what_came_with_a_call_that_takes_long_goes_to_another_worker(line, workers, calls):
    """A call received with a long call goes to another worker, even if both were expected to be fast."""
    workers.start("one", "two")
    for _ in range(20):
        line.send(*calls)
        fetched = dict([workers.fetched(), workers.fetched()])
        assert sorted(fetched.values()) == sorted(calls)
        for name in fetched:
            workers.go_on(name)


def test_a_worker_that_ends_leaves_reading_to_others(inbox, line, until):
    """A worker that leaves after its timeout hands reading to another thread."""
    with pytest.raises(Empty):
        inbox.get_within(0.001)
    line.send(SLOW)
    until(inbox.size)
    assert inbox.get_within(PATIENCE).method.index == SLOW


def test_one_connection_ends_and_the_others_go_on(inbox, line, workers):
    """When one connection ends, its owner gets the error; other connections stay usable."""
    workers.start("one")
    for _ in range(3):
        other = Line(inbox)
        assert inbox.read_connection(other)
        other.send(QUICK)
        assert workers.run() == QUICK
        assert isinstance(other.close(), EOFError)
        line.send(QUICK)
        assert workers.run() == QUICK


def test_a_connection_comes_after_all_have_ended(inbox, line, workers):
    """A connection made after all others have ended is read, also while a worker is busy."""
    workers.start("one", "two")
    assert isinstance(line.close(), EOFError)
    again = Line(inbox)
    assert inbox.read_connection(again)
    for _ in range(2):  # the second is read while the first still runs
        again.send(SLOW)
        assert workers.fetched()[1] == SLOW
    for name in ("one", "two"):
        workers.go_on(name)
    again.close()


def test_nobody_stands_by_without_a_connection(inbox, line, workers, until):
    """Without connections no standby thread remains, not even one that was asleep."""
    workers.start("one")

    def standby_sleeps():
        if not inbox._worker_polls:  # the standby thread reads: it leaves that to the worker after a quick call
            line.send(QUICK)
            workers.run()
        return inbox._standby_sleeps

    until(standby_sleeps)
    line.close()
    until(lambda: not any(thread.name == "socket_inbox" for thread in threading.enumerate()))


def test_what_was_read_and_not_fetched_is_taken_away_at_the_end(inbox, line):
    """Calls that were read but not fetched are returned when the replica stops."""
    line.send(QUICK, QUICK, QUICK)
    inbox.get()
    assert len(inbox.take_work()) == 2


def test_workers_of_an_event_loop_read_nothing(inbox):
    """If workers run in an event loop, the inbox takes no connection; each connection keeps its own thread."""
    inbox.notify(lambda: None)
    line = Line(inbox)
    assert not inbox.read_connection(line)
    line.far.close()
    line.ended(None)
