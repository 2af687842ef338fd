"""An inbox whose idle workers read the replica's connections, so that a single call wakes only one thread."""

from __future__ import annotations

import os
import select
import threading
import weakref
from collections import deque
from contextlib import suppress
from queue import Empty
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from sage_plugins.call.lazy_future import closed_lock, open_lock
from sage_plugins.host.inbox import Inbox
from sage_plugins.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sage_plugins.interfaces import Work

__all__ = ["IncomingConnection", "SocketInbox"]

#: Seconds that a worker's call may take before the standby thread reads instead of that worker.
_TICK_S: Final = 0.001
#: Ticks without a new call after which the standby thread sleeps until the next one.
_QUIET_TICKS: Final = 100


class IncomingConnection(Protocol):
    """A connection that brings work."""

    def fileno(self) -> int:
        """Return its file descriptor."""

    def read(self) -> None:
        """Read what is there, and put the work into the inbox; raises when the connection has ended."""

    def ended(self, error: BaseException) -> None:
        """Note that the connection is read no more, because `read` raised *error*."""


class SocketInbox(Inbox):
    """
    An inbox whose work comes over connections. One thread at a time reads them.

    An idle worker reads, and runs what it has read itself. While methods are quick, nobody reads in the meantime, and
    calls that came together run in turn. Before a call that may take long, the worker gives the other calls to other
    workers, and the standby thread reads. That thread also checks whether a quick call takes long after all. It leaves
    the reading to the workers again when it has read only quick calls.
    """

    def __init__(self, quick: Collection[int]) -> None:
        """Start without connections; *quick* has the indices of methods that took no time when they last ran."""
        super().__init__()
        self.put: Callable[[Work | None], None] = self._put_work
        self.get: Callable[[], Work | None] = self._get_work
        self.get_within: Callable[[float], Work | None] = self._get_work
        self._quick = quick
        self._idle: Sequence[object] = (None,)
        self._attend: Callable[[], None] = lambda: None
        self._on_loop = False
        self._leader_lock = threading.Lock()  # its holder is the leader, which reads
        self._reader = 0  # ID of the thread that puts what it reads into `_read`
        self._read: deque[Work | None] = deque()
        self._worker_polls = False  # whether a worker waits for connections rather than for the queue
        self._workers_fetch = False  # whether workers fetch work here
        self._departures = 0  # how often a worker has left for a call
        self._standby_wakeup = closed_lock()  # wakes the standby thread
        self._standby_sleeps = False  # whether the standby thread waits to be woken, without ticks
        self._must_read_now = False  # whether the standby thread must read at once
        self._changing = threading.Lock()  # guards the next two
        self._incoming: dict[int, IncomingConnection] = {}
        self._has_standby = False  # whether there is a standby thread
        self._epoll: Any = None
        self._work_eventfd = -1  # eventfd that is readable when there is work from elsewhere

    @staticmethod
    def possible() -> bool:
        """Whether the system supports this."""
        return hasattr(select, "epoll") and hasattr(os, "eventfd")

    # -- as an inbox -------------------------------------------------------------------------------------------------

    def notify(self, wake: Callable[[], None]) -> None:
        """As `Inbox.notify`; an event loop reads no connections."""
        super().notify(wake)
        self._on_loop = True

    def when_unattended(self, idle: Sequence[object], attend: Callable[[], None]) -> None:
        """As `Inbox.when_unattended`."""
        self._idle, self._attend = idle, attend

    def take_work(self) -> list[Work]:
        """As `Inbox.take_work`."""
        self._give_out()
        return super().take_work()

    def _put_work(self, work: Work | None) -> None:
        if get_ident() == self._reader:
            self._read.append(work)
            return
        self._queue.put(work)
        if self._worker_polls:
            os.eventfd_write(self._work_eventfd, 1)
        if not self._idle:
            self._attend()

    def _get_work(self, seconds: float | None = None) -> Work | None:
        if self._read:
            with suppress(IndexError):  # the standby thread gave it to others
                return self._read.popleft()
        self._workers_fetch = True
        if not (self._incoming and self._leader_lock.acquire(blocking=False)):
            return self._queue.get(timeout=seconds)
        quick = False  # stays False if reading raises and this worker does not come back
        try:
            work, quick = self._read_and_fetch(seconds)
        finally:
            self._departures += 1
            self._leader_lock.release()
            self._must_read_now |= not quick
            if self._must_read_now or self._standby_sleeps:
                open_lock(self._standby_wakeup)
        return work

    # -- reading -----------------------------------------------------------------------------------------------------

    def read_connection(self, incoming: IncomingConnection) -> bool:
        """Have *incoming* read from now on; return False if workers read no connections here."""
        if self._on_loop:
            return False
        with self._changing:
            if self._epoll is None:
                self._work_eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._epoll = select.epoll()
                self._epoll.register(self._work_eventfd, select.EPOLLIN)
                self._free = weakref.finalize(self, _close, self._epoll, self._work_eventfd)
                self._free.atexit = False
            starts, self._has_standby = not self._has_standby, True
            self._incoming[incoming.fileno()] = incoming
            self._epoll.register(incoming.fileno(), select.EPOLLIN)
            if starts:
                start_thread(self._stand_by, "socket_inbox")
        self._must_read_now = True
        open_lock(self._standby_wakeup)
        return True

    def _read_and_fetch(self, seconds: float | None) -> tuple[Work | None, bool]:
        """
        Read until there is work; return the first item, and whether all that was read is quick. For the leader.

        Raises:
            Empty: There was none within *seconds*.
        """
        until = None if seconds is None else monotonic() + seconds
        queue, read = self._queue, self._read
        while True:
            self._worker_polls = True
            try:
                if not queue.empty():
                    with suppress(Empty):
                        return queue.get_nowait(), False
                there = self._read_some(None if until is None else until - monotonic())
            finally:
                self._worker_polls = False
            if read:
                first = read.popleft()
                quick = self._is_quick(first) and (not read or all(map(self._is_quick, read)))
                if not quick:
                    self._give_out()
                return first, quick
            if not there:
                raise Empty

    def _read_some(self, seconds: float | None = None) -> bool:
        """Wait for something to read, and read it; return False if nothing came in time. For the leader."""
        found = self._epoll.poll(None if seconds is None else max(0.0, seconds))
        self._worker_polls = False
        self._reader = get_ident()
        try:
            for number, _ in found:
                if number == self._work_eventfd:
                    with suppress(BlockingIOError):
                        os.eventfd_read(self._work_eventfd)
                else:
                    self._read_from(self._incoming[number])
        finally:
            self._reader = 0
        return bool(found)

    def _read_from(self, incoming: IncomingConnection) -> None:
        try:
            incoming.read()
        except BaseException as error:  # noqa: BLE001 - any error concerns that connection only
            number = incoming.fileno()
            with self._changing:
                self._epoll.unregister(number)
                del self._incoming[number]
            open_lock(
                self._standby_wakeup
            )  # the standby thread must see it, because this may have been the last connection
            incoming.ended(error)

    def _is_quick(self, work: Any) -> bool:
        """Whether *work* is a call that most likely takes no time."""
        method = getattr(work, "method", None)
        return method is not None and method.index in self._quick

    def _give_out(self) -> None:
        with suppress(IndexError):
            while True:
                self._put_work(self._read.popleft())

    # -- the standby thread ------------------------------------------------------------------------------------------

    def _stand_by(self) -> None:
        """Read while no worker does, as long as there are connections."""
        seen, quiet = -1, 0
        while self._has_incoming():
            woken = self._standby_wakeup.acquire(timeout=-1 if self._standby_sleeps else _TICK_S)
            if woken:
                self._standby_sleeps, quiet = False, 0
            if self._must_read_now:
                self._must_read_now = False
            elif self._leader_lock.locked():
                quiet += 1
                if quiet > _QUIET_TICKS:
                    self._standby_sleeps = (
                        True  # before the next check: from now on a worker that leaves wakes this thread
                    )
                    self._standby_sleeps = self._leader_lock.locked()
                continue
            elif seen != self._departures:  # the worker left within the last tick: give its call one more
                seen, quiet = self._departures, 0
                continue
            if self._leader_lock.acquire(blocking=False):
                try:
                    self._read_for_workers()
                finally:
                    self._leader_lock.release()

    def _has_incoming(self) -> bool:
        """Whether there are connections left; if not, the next one starts another standby thread."""
        with self._changing:
            self._has_standby = bool(self._incoming)
            return self._has_standby

    def _read_for_workers(self) -> None:
        """Read until a worker can read again; for the leader."""
        self._give_out()  # calls left by a worker whose own call takes long
        while self._incoming:
            self._read_some()
            works = tuple(self._read)
            self._give_out()
            if works and self._workers_fetch and all(map(self._is_quick, works)):
                return


def _close(epoll: select.epoll, work_eventfd: int) -> None:
    epoll.close()
    os.close(work_eventfd)
