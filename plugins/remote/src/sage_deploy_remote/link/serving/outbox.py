"""What one caller of a replica is to be told, in the replica's process, and how its exchanges wait for it."""

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

#: Seconds that a response waits for more replies, while other calls of its caller run: what ends together travels
#: together.
_LINGER_S: Final = 0.0005

#: Seconds after which a caller is forgotten that says nothing, and for which nothing is done.
FORGOTTEN_AFTER_S: Final = 600.0

#: Seconds within which frames overtake each other: those of one caller come in order, but in threads of their own.
_OVERTAKEN_WITHIN_S: Final = 30.0


class Bundle(Protocol):
    """
    Calls of one caller that run one after the other.

    Attributes:
        due: `monotonic()` after which those that have not started go back.
    """

    due: float

    @property
    def waiting(self) -> Collection[Any]:
        """Those that have not started."""

    def give_back(self) -> None:
        """Return them to their caller."""


class _Owner(Protocol):
    @property
    def clock(self) -> Clock:
        """Its time."""

    def looked(self) -> None:
        """A response is taken away."""


class ForgottenError(Exception):
    """The mailbox is not its caller's any more."""


class Outbox:
    """
    What one caller is to be told, and its exchange that waits for that.

    Attributes:
        caller: Whose it is.
        calls: Those that have not been answered, by the caller's number.
    """

    sends_at_once = False

    def __init__(self, server: _Owner, caller: str) -> None:
        self.caller = caller
        self.calls: dict[int, Call] = {}
        self._server = server
        self._mutex = threading.Lock()
        self._condition = threading.Condition(self._mutex)  # entering the lock itself takes a third of the time
        # The next are guarded by _mutex.
        self._replies: list[Reply] = []
        self._asleep = 0  # exchanges that wait for the first reply; the one before may still be waking up
        self._bundles: list[Bundle] = []  # that may have calls to be returned
        self._units = 0  # that have not ended
        self._owed = 0  # refused units whose callers wait for room
        self._latest = -1  # frame that was taken last
        self._number = 0  # of the next response
        self._next_frame = -1  # the first is known when a fresh one has come
        self._exchanges = 0  # that are here
        self._left_at = server.clock.monotonic()  # when the last of them left
        self._seen = -1  # frame whose exchange was the latest when callers were last looked after
        self._answered = -1  # frame up to which exchanges wait no more, though there is nothing to say
        self._closed = False  # whether the caller was forgotten

    def close_if_silent(self, before: float) -> bool:
        """Forget the caller if its last exchange left *before*, and nothing runs for it; gives whether that is so."""
        with self._mutex:
            self._closed = self._left_at < before and not (self._exchanges or self._units)
            return self._closed

    def is_gone(self, before: float) -> bool:
        """
        Whether something is done for the caller and its last exchange left *before*.

        One that has been waiting since this was last asked is answered: whoever gets that sends another.
        """
        with self._mutex:
            if self._exchanges:
                if self._seen == self._latest:
                    self._answered = self._latest
                    self._condition.notify_all()
                self._seen = self._latest
                return False
            return self._left_at <= before and bool(self._units)

    def enter(self, number: int, *, fresh: bool) -> None:
        """
        Wait until all frames before this one are taken: they come in order, but in threads of their own.

        Whoever comes back from this takes the frame, and then calls `taken`. What is said from then on is for this
        exchange: its caller may be waiting for nothing else.

        Raises:
            ForgottenError: There is, or has to be, another mailbox for the caller.
            RuntimeError: As `ReplicaServer.exchange`.
        """
        with self._mutex:
            if self._closed:
                raise ForgottenError
            if self._next_frame < 0:
                self._begin(number, fresh=fresh)
            self._exchanges += 1
            if self._next_frame != number:
                self._condition.wait_for(lambda: self._next_frame == number)
            self._latest = number
            if self._exchanges > 1:  # the one before is answered now
                self._condition.notify_all()

    def taken(self) -> None:
        """It is the next frame's turn."""
        with self._mutex:
            self._next_frame += 1
            if self._exchanges > 1:
                self._condition.notify_all()

    def _begin(self, number: int, *, fresh: bool) -> None:
        """Begin with the first frame of a caller that is not known, or not any more; with the condition."""
        if fresh:
            self._next_frame = self._number = number  # all responses before it have been read
            self._condition.notify_all()
        elif not self._condition.wait_for(lambda: self._next_frame >= 0, _OVERTAKEN_WITHIN_S):
            msg = f"its caller stood still for more than {FORGOTTEN_AFTER_S:g} s, and what it was to be told is lost"
            raise RuntimeError(msg)

    def watch(self, bundle: Bundle) -> None:
        """Return what waits in *bundle* when it is due."""
        with self._mutex:
            self._bundles.append(bundle)

    def begin(self) -> None:
        """A unit of this caller begins."""
        with self._mutex:
            self._units += 1

    def post(self, reply: Reply, *, wakes: bool = True) -> None:
        """Say *reply*, unless not *wakes*: then it goes with another one that is about to come."""
        with self._mutex:
            self._replies.append(reply)
            if reply[0] == protocol.REFUSED:
                self._owed += 1
            elif reply[0] == protocol.ROOM:
                self._owed -= 1
            if self._asleep and wakes:
                self._condition.notify_all()

    def tell_start(self, id: int) -> bool:
        """As `callers.Mailbox.tell_start`: what waits to be asked for is lost with this process."""
        self.post((protocol.STARTING, id), wakes=False)
        return False

    def keep(self, reply: Reply) -> None:
        """As `callers.Mailbox.keep`: no caller is told of starts here, so none asks for it."""
        self.post(reply)

    def end(self, reply: Reply | None = None) -> None:
        """A unit has ended; say *reply*."""
        with self._mutex:
            self._units -= 1
            if reply is not None:
                self._replies.append(reply)
            if self._asleep or not self._units:
                self._condition.notify_all()

    def forget(self, id: int) -> None:
        """A call is over, and no notice about it is awaited."""
        self.calls.pop(id, None)

    def collect(self, frame: int) -> Response:
        """Wait for something to say in answer to *frame*, or for the caller's next one: then that has the replies."""
        with self._mutex:
            until = None
            while self._latest == frame and (self._units or self._owed) and self._answered < frame:
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
            if self._latest == frame:
                replies, self._replies = self._replies, replies
            number = self._number
            self._number += 1
            self._exchanges -= 1
            self._left_at = self._server.clock.monotonic()
        self._server.looked()
        return Response(number, replies)

    @property
    def has_replies(self) -> bool:
        """Whether there are replies that nobody has taken away."""
        return bool(self._replies)

    def _sleep(self) -> None:
        """Wait for a reply, or until calls are to be returned; with the condition."""
        due = None
        if self._bundles:
            self._bundles = [bundle for bundle in self._bundles if bundle.waiting]
            due = min((bundle.due for bundle in self._bundles), default=None)
        self._asleep += 1
        told = self._condition.wait(None if due is None else max(0.0, due - time.monotonic()))
        self._asleep -= 1
        if told or due is None:
            return
        now = time.monotonic()
        overdue = [bundle for bundle in self._bundles if bundle.due <= now]
        self._condition.release()  # what is done now says so here
        try:
            for bundle in overdue:
                bundle.give_back()
        finally:
            self._condition.acquire()
