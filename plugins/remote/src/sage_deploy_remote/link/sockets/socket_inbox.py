"""Where work waits in a replica whose idle workers read its connections: so a call alone wakes one thread there."""

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

__all__ = ["Incoming", "SocketInbox"]

#: Seconds after which the thread that stands by reads, when a worker has left for a call that was to take less.
_TICK_S: Final = 0.001
#: Ticks without a call after which that thread looks no more until the next one.
_QUIET_TICKS: Final = 100


class Incoming(Protocol):
    """One connection over which work comes."""

    def fileno(self) -> int:
        """Its number."""

    def read(self) -> None:
        """Read what is there, and put the work in it into the inbox; raises when the connection has ended."""

    def ended(self, error: BaseException) -> None:
        """It is read no more, for it has raised *error*."""


class SocketInbox(Inbox):
    """
    An inbox whose work comes over connections, which one thread at a time reads.

    An idle worker does, and runs what it has read itself. While methods take no time nobody reads meanwhile, and calls
    that came together run one after the other. Before a call that may take long, the others go to other workers, and
    the thread that stands by reads. It looks whether a call takes long after all, too. It leaves reading to the
    workers again when what it has read takes no time.
    """

    def __init__(self, quick: Collection[int]) -> None:
        """Have no connections; *quick* are the indices of methods that took no time when they ran last."""
        super().__init__()
        self.put: Callable[[Work | None], None] = self._put_work
        self.get: Callable[[], Work | None] = self._get_work
        self.get_within: Callable[[float], Work | None] = self._get_work
        self._quick = quick
        self._idle: Sequence[object] = (None,)
        self._attend: Callable[[], None] = lambda: None
        self._on_loop = False
        self._lead = threading.Lock()  # whose holder reads
        self._reader = 0  # the thread that puts what it is reading into the next
        self._read: deque[Work | None] = deque()
        self._polls = False  # whether a worker waits for connections, and not for the queue
        self._fetched = False  # whether workers come here
        self._left = 0  # times that one has left for a call
        self._bell = closed_lock()
        self._sleeps = False  # whether who stands by waits for the bell alone
        self._wanted = False  # whether that is to read at once
        self._changing = threading.Lock()  # guards the next two
        self._incoming: dict[int, Incoming] = {}
        self._attended = False  # whether a thread stands by
        self._epoll: Any = None
        self._alarm = -1  # readable when there is work from elsewhere

    @staticmethod
    def possible() -> bool:
        """Whether the system has what this takes."""
        return hasattr(select, "epoll") and hasattr(os, "eventfd")

    # -- as an inbox -------------------------------------------------------------------------------------------------

    def notify(self, wake: Callable[[], None]) -> None:
        """As `Inbox.notify`; a loop reads no connections."""
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
        if self._polls:
            os.eventfd_write(self._alarm, 1)
        if not self._idle:
            self._attend()

    def _get_work(self, seconds: float | None = None) -> Work | None:
        if self._read:
            with suppress(IndexError):  # who stands by has given it to others
                return self._read.popleft()
        self._fetched = True
        if not (self._incoming and self._lead.acquire(blocking=False)):
            return self._queue.get(timeout=seconds)
        quick = False  # also if this worker comes back no more
        try:
            work, quick = self._read_and_fetch(seconds)
        finally:
            self._left += 1
            self._lead.release()
            self._wanted |= not quick
            if self._wanted or self._sleeps:
                open_lock(self._bell)
        return work

    # -- reading -----------------------------------------------------------------------------------------------------

    def attend(self, incoming: Incoming) -> bool:
        """Read *incoming* from now on; False if the workers read nothing."""
        if self._on_loop:
            return False
        with self._changing:
            if self._epoll is None:
                self._alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._epoll = select.epoll()
                self._epoll.register(self._alarm, select.EPOLLIN)
                self._free = weakref.finalize(self, _close, self._epoll, self._alarm)
                self._free.atexit = False
            starts, self._attended = not self._attended, True
            self._incoming[incoming.fileno()] = incoming
            self._epoll.register(incoming.fileno(), select.EPOLLIN)
            if starts:
                start_thread(self._stand_by, "socket_inbox")
        self._wanted = True
        open_lock(self._bell)
        return True

    def _read_and_fetch(self, seconds: float | None) -> tuple[Work | None, bool]:
        """
        Read until there is work; gives the first, and whether all that was read takes no time. For a worker that leads.

        Raises:
            Empty: There was none in *seconds*.
        """
        until = None if seconds is None else monotonic() + seconds
        queue, read = self._queue, self._read
        while True:
            self._polls = True
            try:
                if not queue.empty():
                    with suppress(Empty):
                        return queue.get_nowait(), False
                there = self._read_some(None if until is None else until - monotonic())
            finally:
                self._polls = False
            if read:
                first = read.popleft()
                quick = self._is_quick(first) and (not read or all(map(self._is_quick, read)))
                if not quick:
                    self._give_out()
                return first, quick
            if not there:
                raise Empty

    def _read_some(self, seconds: float | None = None) -> bool:
        """Wait for something to read, and read it; False if nothing came in time. For the leader."""
        found = self._epoll.poll(None if seconds is None else max(0.0, seconds))
        self._polls = False
        self._reader = get_ident()
        try:
            for number, _ in found:
                if number == self._alarm:
                    with suppress(BlockingIOError):
                        os.eventfd_read(self._alarm)
                else:
                    self._read_from(self._incoming[number])
        finally:
            self._reader = 0
        return bool(found)

    def _read_from(self, incoming: Incoming) -> None:
        try:
            incoming.read()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is that connection's
            number = incoming.fileno()
            with self._changing:
                self._epoll.unregister(number)
                del self._incoming[number]
            open_lock(self._bell)  # it may have been the last
            incoming.ended(error)

    def _is_quick(self, work: Any) -> bool:
        """Whether *work* is a call that takes no time, most likely."""
        method = getattr(work, "method", None)
        return method is not None and method.index in self._quick

    def _give_out(self) -> None:
        """Give what was read to whichever worker is free."""
        with suppress(IndexError):
            while True:
                self._put_work(self._read.popleft())

    # -- the thread that stands by -----------------------------------------------------------------------------------

    def _stand_by(self) -> None:
        """Read while no worker does, as long as there are connections."""
        seen, quiet = -1, 0
        while self._has_incoming():
            rung = self._bell.acquire(timeout=-1 if self._sleeps else _TICK_S)
            if rung:
                self._sleeps, quiet = False, 0
            if self._wanted:
                self._wanted = False
            elif self._lead.locked():
                quiet += 1
                if quiet > _QUIET_TICKS:
                    self._sleeps = True  # first: a worker that leaves from now on rings
                    self._sleeps = self._lead.locked()
                continue
            elif seen != self._left:  # it has only just left
                seen, quiet = self._left, 0
                continue
            if self._lead.acquire(blocking=False):
                try:
                    self._read_for_workers()
                finally:
                    self._lead.release()

    def _has_incoming(self) -> bool:
        """Whether there is something to stand by for; if not, the next connection starts another thread."""
        with self._changing:
            self._attended = bool(self._incoming)
            return self._attended

    def _read_for_workers(self) -> None:
        """Read until that is a worker's again; for the leader."""
        self._give_out()  # what a worker has left behind that takes long
        while self._incoming:
            self._read_some()
            works = tuple(self._read)
            self._give_out()
            if works and self._fetched and all(map(self._is_quick, works)):
                return


def _close(epoll: select.epoll, alarm: int) -> None:
    epoll.close()
    os.close(alarm)
