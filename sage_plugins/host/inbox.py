"""The inbox of a replica: work waits here until a worker fetches it."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from sage_plugins.host.lifecycle import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sage_plugins.interfaces import Work

__all__ = ["Inbox"]


class Inbox:
    """A queue of work. It can notify an event loop, or a strategy that starts threads on demand."""

    def __init__(self) -> None:
        queue: SimpleQueue[Any] = SimpleQueue()
        self.put: Callable[[Work | None], None] = queue.put
        self.get: Callable[[], Work | None] = queue.get
        self.get_within: Callable[[float], Work | None] = partial(queue.get, True)  # noqa: FBT003 - `block`
        self.size: Callable[[], int] = queue.qsize
        self._queue = queue
        self._asleep: list[None] = []  # a token while the loop has found it empty and sleeps
        self._wake: Callable[[], None] = lambda: None

    def notify(self, wake: Callable[[], None]) -> None:
        """Call *wake*, from any thread, when work comes after `get_nowait` has found none."""
        self._wake = wake
        self.put = self._put

    def when_unattended(self, idle: Sequence[object], attend: Callable[[], None]) -> None:
        """Call *attend*, from any thread, after work has come while *idle* was empty."""
        put = self._queue.put
        self._wake = attend

        def put_and_look(work: Work | None) -> None:
            put(work)
            if not idle:
                attend()

        self.put = put_and_look

    def _put(self, work: Work | None) -> None:
        self._queue.put(work)
        if self._asleep:
            try:
                self._asleep.pop()
            except IndexError:  # another thread wakes it
                return
            self._wake()

    def nudge(self) -> None:
        """Wake the worker if work waits: an exception may have kept its sender from doing so."""
        if self._queue.qsize():
            self._wake()

    def take_work(self) -> list[Work]:
        """Take out every call and batch. Steps and the None that ends a worker stay."""
        found: list[Work] = []
        stays: list[Work | None] = []
        with suppress(Empty):
            while True:
                work = self._queue.get_nowait()
                (stays if work is None or isinstance(work, Step) else found).append(work)
        for work in stays:
            self._queue.put(work)
        return found

    def get_nowait(self) -> Work | None:
        """Return the next work, or None; after None, the thread that brings work wakes the loop."""
        while True:
            try:
                return self._queue.get_nowait()
            except Empty:
                self._asleep.append(None)
            if not self._queue.qsize():
                return None
            try:  # work came after the first check
                self._asleep.pop()
            except IndexError:  # its sender took the token, and wakes the loop
                return None
