"""Holds the replies for one caller of a replica, and lets its exchanges wait for them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from sage_deploy_remote.link import protocol
from sage_deploy_remote.link.protocol import Response

if TYPE_CHECKING:
    from collections.abc import Collection

    from sage_deploy_remote.link.protocol import Reply
    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock

__all__ = ["FORGOTTEN_AFTER_S", "Bundle", "ForgottenError", "Outbox"]

#: Seconds that a response waits for more replies while other calls of its caller run: calls that end together are
#: answered together.
_LINGER_S: Final = 0.0005

#: Seconds after which a silent caller is forgotten, if nothing runs for it.
FORGOTTEN_AFTER_S: Final = 600.0

#: Seconds within which frames may overtake each other: a caller sends them in order, but each has a separate thread
#: here.
_OVERTAKEN_WITHIN_S: Final = 30.0


class Bundle(Protocol):
    """
    Calls of one caller that run in turn.

    Attributes:
        due: `monotonic()` after which calls that have not started go back.
    """

    due: float

    @property
    def waiting(self) -> Collection[Any]:
        """The calls that have not started."""

    def give_back(self) -> None:
        """Return the waiting calls to their caller."""


class _Owner(Protocol):
    @property
    def clock(self) -> Clock:
        """The clock for its deadlines."""

    def wake_vacate(self) -> None:
        """Note that a response was sent."""


class ForgottenError(Exception):
    """The caller was forgotten, so this mailbox is not used any more."""


class Outbox:
    """
    Holds the replies for one caller, and lets its exchange wait for them.

    Attributes:
        caller: The caller's name.
        calls: Its calls that are not answered yet, by the caller's number.
    """

    sends_at_once = False

    def __init__(self, server: _Owner, caller: str) -> None:
        self.caller = caller
        self.calls: dict[int, Call] = {}
        self._server = server
        self._mutex = threading.Lock()
        self._condition = threading.Condition(self._mutex)  # entering a Lock directly takes a third of the time
        # The attributes below are guarded by _mutex.
        self._replies: list[Reply] = []
        self._asleep = 0  # exchanges that wait for the first reply; the one before may not have woken yet
        self._bundles: list[Bundle] = []  # that may have calls to return
        self._units = 0  # units that have not ended
        self._refused_units = 0  # refused units whose callers wait for room
        self._latest_frame = -1  # latest frame
        self._number = 0  # number of the next response
        self._next_frame = -1  # number of the next frame; known once a fresh one has come
        self._exchanges = 0  # exchanges that are open
        self._left_at = server.clock.monotonic()  # when the last exchange left
        self._seen = -1  # latest frame at the last check of callers
        self._answered_up_to = -1  # exchanges up to this frame stop waiting, even without replies
        self._closed = False  # whether the caller was forgotten

    def close_if_silent(self, before: float) -> bool:
        """
        Forget the caller if its last exchange left before *before* and nothing runs for it.

        Return whether it was forgotten.
        """
        with self._mutex:
            self._closed = self._left_at < before and not (self._exchanges or self._units)
            return self._closed

    def is_gone(self, before: float) -> bool:
        """
        Whether something runs for the caller although its last exchange left before *before*.

        An exchange that has waited since the last check is answered; a living caller then sends another.
        """
        with self._mutex:
            if self._exchanges:
                if self._seen == self._latest_frame:
                    self._answered_up_to = self._latest_frame
                    self._condition.notify_all()
                self._seen = self._latest_frame
                return False
            return self._left_at <= before and bool(self._units)

    def enter(self, number: int, *, fresh: bool) -> None:
        """
        Wait until all frames before this one are taken: they come in order, but each has a separate thread.

        After this, the thread takes the frame, and then calls `frame_taken`. Replies from then on belong to this
        exchange, because its caller may wait for no other.

        Raises:
            ForgottenError: The caller has another mailbox, or needs one.
            RuntimeError: As `CallServer.exchange`.
        """
        with self._mutex:
            if self._closed:
                raise ForgottenError
            if self._next_frame < 0:
                self._begin(number, fresh=fresh)
            self._exchanges += 1
            if self._next_frame != number:
                self._condition.wait_for(lambda: self._next_frame == number)
            self._latest_frame = number
            if self._exchanges > 1:  # answer the exchange before this one now
                self._condition.notify_all()

    def frame_taken(self) -> None:
        """Let the next frame be taken."""
        with self._mutex:
            self._next_frame += 1
            if self._exchanges > 1:
                self._condition.notify_all()

    def _begin(self, number: int, *, fresh: bool) -> None:
        """Begin with the first frame of an unknown or forgotten caller; with the condition's lock held."""
        if fresh:
            self._next_frame = self._number = number  # the caller has read all earlier responses
            self._condition.notify_all()
        elif not self._condition.wait_for(lambda: self._next_frame >= 0, _OVERTAKEN_WITHIN_S):
            msg = f"its caller did not respond for {FORGOTTEN_AFTER_S:g} s, so replies to it are lost"
            raise RuntimeError(msg)

    def watch(self, bundle: Bundle) -> None:
        """As `callers.Mailbox.watch`."""
        with self._mutex:
            self._bundles.append(bundle)

    def begin_unit(self) -> None:
        """As `callers.Mailbox.begin_unit`."""
        with self._mutex:
            self._units += 1

    def post(self, reply: Reply, *, wakes: bool = True) -> None:
        """As `callers.Mailbox.post`."""
        with self._mutex:
            self._replies.append(reply)
            if reply[0] == protocol.REFUSED:
                self._refused_units += 1
            elif reply[0] == protocol.ROOM:
                self._refused_units -= 1
            if self._asleep and wakes:
                self._condition.notify_all()

    def record_start(self, id: int) -> bool:
        """As `callers.Mailbox.record_start`: always False, because queued replies are lost with this process."""
        self.post((protocol.STARTING, id), wakes=False)
        return False

    def journal_or_send(self, reply: Reply) -> None:
        """As `callers.Mailbox.journal_or_send`. Not used: no caller without a connection asks for it."""
        self.post(reply)

    def end_unit(self, reply: Reply | None = None) -> None:
        """As `callers.Mailbox.end_unit`."""
        with self._mutex:
            self._units -= 1
            if reply is not None:
                self._replies.append(reply)
            if self._asleep or not self._units:
                self._condition.notify_all()

    def forget(self, id: int) -> None:
        """As `callers.Mailbox.forget`."""
        self.calls.pop(id, None)

    def collect(self, frame: int) -> Response:
        """
        Wait for replies to *frame*, or for the caller's next frame.

        In the second case, the response is empty, and the next frame's response has the replies.
        """
        with self._mutex:
            until = None
            while self._latest_frame == frame and (self._units or self._refused_units) and self._answered_up_to < frame:
                if not self._replies:
                    self._sleep()
                    continue
                now = time.monotonic()
                if until is None:
                    until = now + _LINGER_S
                if now >= until:
                    break
                self._condition.wait(until - now)
            replies: list[Reply] = []
            if self._latest_frame == frame:
                replies, self._replies = self._replies, replies
            number = self._number
            self._number += 1
            self._exchanges -= 1
            self._left_at = self._server.clock.monotonic()
        self._server.wake_vacate()
        return Response(number, replies)

    @property
    def has_replies(self) -> bool:
        """Whether there are replies that were not sent yet."""
        return bool(self._replies)

    def _sleep(self) -> None:
        """Wait for a reply, or until calls must be returned; with the condition's lock held."""
        due = None
        if self._bundles:
            self._bundles = [bundle for bundle in self._bundles if bundle.waiting]
            due = min((bundle.due for bundle in self._bundles), default=None)
        self._asleep += 1
        notified = self._condition.wait(None if due is None else max(0.0, due - time.monotonic()))
        self._asleep -= 1
        if notified or due is None:
            return
        now = time.monotonic()
        overdue = [bundle for bundle in self._bundles if bundle.due <= now]
        self._condition.release()  # `give_back` posts replies here
        try:
            for bundle in overdue:
                bundle.give_back()
        finally:
            self._condition.acquire()
