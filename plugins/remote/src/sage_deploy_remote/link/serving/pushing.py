"""What one caller is told over a connection of its own, as soon as there is something to say."""

from __future__ import annotations

import pickle
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from sage_deploy_remote.link import protocol
from sage_deploy_remote.link.sockets.attachments import Attachments, Carrier
from sage_deploy_remote.link.sockets.journal import Journal
from sage_deploy_remote.link.sockets.messages import MessageError, pickled
from sage_deploy_remote.link.sockets.stream import Stream
from sage_plugins.clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket

    from sage_deploy_remote.link.protocol import Frame, Reply
    from sage_deploy_remote.link.serving.calls import CallServer
    from sage_deploy_remote.link.serving.outbox import Bundle
    from sage_deploy_remote.payloads.payload import Payload
    from sage_plugins.call.call import Call
    from sage_plugins.clock import Timer

__all__ = ["CallersCarrier", "PushedReplies", "carry_calls"]

_ANSWERS: Final = frozenset({protocol.DONE, protocol.FAILED})

#: Bytes of an answer up to which it may leave later.
_LIGHT: Final = 2**12


class CallersCarrier(Carrier, Protocol):
    """A `Carrier` that all callers of a replica share."""

    def end(self, mark: str) -> None:
        """The call is over in whose arguments *mark* stood, and uses them no more; never blocks."""

    def leave(self, caller: str) -> None:
        """The connection of *caller* has ended: let go of what was on its way."""


class PushedReplies:
    """
    As `outbox.Outbox`, for a caller with a connection: its end says that the caller is gone.

    Whoever says something sends it, with what others say at that moment.

    Attributes:
        caller: Whose it is.
        calls: Those that have not been answered, by the caller's number.
    """

    sends_at_once = True

    def __init__(
        self, server: CallServer, stream: Stream, attachments: Attachments, caller: str, journal: Journal | None = None
    ) -> None:
        """
        Say nothing yet.

        Args:
            server: Runs the calls.
            stream: The connection with the caller.
            attachments: Says how replies are written.
            caller: Who it is.
            journal: Where it finds what was not sent; None if there is none.
        """
        self.caller = caller
        self.calls: dict[int, Call] = {}
        self._server = server
        self._stream = stream
        self._attachments = attachments
        self._replies: deque[Reply] = deque()
        self._turn = threading.Lock()  # whose holder sends
        self._number = 0  # of the next response; for the holder, as the next
        self._journal = journal
        self._started: dict[int, Reply] = {}  # calls whose starts are only written there, and are not answered
        self._behind = False  # whether the journal has what was sent and may not have arrived
        self._bundles: list[Bundle] = []  # that may have calls to be returned; guarded by _watching, as the next
        self._timer: Timer | None = None
        self._watching = threading.Lock()
        server.callers.add(self)

    def take(self, frame: Frame) -> None:
        """Take the next frame."""
        self._server.take(self, frame)

    def leave(self) -> None:
        """The connection has ended: give up what its caller has here."""
        with self._turn:
            journal, self._journal = self._journal, None
        if journal is not None:
            journal.free()
        self._server.callers.leave(self)

    def begin(self) -> None:
        """A unit of this caller begins."""

    def post(self, reply: Reply, *, wakes: bool = True) -> None:
        """Say *reply*, unless not *wakes*: then it goes with another one that is about to come."""
        self._say(reply)
        if wakes:
            self._send()

    def _say(self, reply: Reply) -> None:
        self._replies.append(reply)
        if reply[0] in _ANSWERS:  # second: until the answer is among them, its caller must learn of the start
            self._started.pop(reply[1], None)

    def tell_start(self, id: int) -> bool:
        """As `callers.Mailbox.tell_start`: what the system has taken is delivered."""
        reply = protocol.STARTING, id
        with self._turn:  # others keep it for a moment only
            if self._in_journal(reply):
                self._started[id] = reply
                return True
            self._replies.append(reply)
            self._send_all()
        self._send()
        return self._stream.taken

    def keep(self, reply: Reply) -> None:
        """As `callers.Mailbox.keep`: a small result, if a journal has room for it; else it is sent now."""
        with self._turn:
            self._say(reply)
            if reply[0] == protocol.DONE and _is_light(reply[2]) and self._in_journal(reply):
                return
            self._send_all()
        self._send()

    def _in_journal(self, reply: Reply) -> bool:
        """Write *reply* down; False if that says nothing. For the holder of the turn."""
        journal = self._journal
        if journal is None or not self._stream.taken:
            return False
        if self._behind:
            self._behind = False
            journal.begin(self._number)
        return journal.add(reply)

    def end(self, reply: Reply | None = None) -> None:
        """A unit has ended; say *reply*."""
        if reply is not None:
            self._replies.append(reply)
        self._send()

    def forget(self, id: int) -> None:
        """A call is over, and no notice about it is awaited."""
        self.calls.pop(id, None)
        self._attachments.over(id)

    def _send(self) -> None:
        while self._replies and self._turn.acquire(blocking=False):
            try:
                self._send_all()
            finally:
                self._turn.release()
        self._server.looked()

    def _send_all(self) -> None:
        """Send what is to be said; for the holder of the turn."""
        waiting = self._replies
        replies = list(self._started.values())
        self._started.clear()
        while waiting:  # nobody else takes any
            replies.append(waiting.popleft())
        if replies:
            number, self._number = self._number, self._number + 1
            self._stream.send(*pickled(self._attachments.of_replies(self.caller, number, replies)))
            self._behind = True

    @property
    def has_replies(self) -> bool:
        """Whether there is something to say that the connection has not taken yet."""
        return bool(self._replies) or self._stream.unsent

    # -- what was sent ahead -----------------------------------------------------------------------------------------

    def watch(self, bundle: Bundle) -> None:
        """Return what waits in *bundle* when it is due."""
        with self._watching:
            self._bundles.append(bundle)
            self._look_at(bundle.due)

    def _look_at(self, due: float) -> None:
        if self._timer is None:
            self._timer = SYSTEM.call_at(due, self._give_back)

    def _give_back(self) -> None:
        with self._watching:
            self._timer = None
            now = SYSTEM.monotonic()
            overdue = [bundle for bundle in self._bundles if bundle.due <= now]
            self._bundles = [bundle for bundle in self._bundles if bundle.waiting and bundle.due > now]
            if self._bundles:
                self._look_at(min(bundle.due for bundle in self._bundles))
        for bundle in overdue:
            bundle.give_back()
        self._send()  # what was held back

    # -- callers that are gone ---------------------------------------------------------------------------------------

    def close_if_silent(self, before: float) -> bool:  # noqa: ARG002 - as `Outbox` has it
        """A caller that says nothing is no caller that is gone."""
        return False

    def is_gone(self, before: float) -> bool:  # noqa: ARG002 - as above
        """As above."""
        return False


def _is_light(payload: Payload) -> bool:
    """Whether to copy *payload* costs next to nothing."""
    data, buffers, references = payload
    return not (buffers or references) and len(data) <= _LIGHT


class _Connection:
    """The calls of one caller, as they come."""

    def __init__(self, find_server: Callable[[], CallServer], end: socket, carrier: CallersCarrier | None) -> None:
        self._find_server = find_server
        self._carrier = carrier
        self._stream, self._attachments = Stream(end), Attachments(carrier)
        self._journal = Journal.take(end)
        self._over = threading.Event()
        self._error: BaseException = EOFError()
        self.fileno = end.fileno
        self.mailbox: PushedReplies | None = None

    def read(self) -> None:
        """As `Incoming.read`."""
        for body, buffers in self._stream.receive():
            frame = self._attachments.to_frame(pickle.loads(body, buffers=buffers))  # noqa: S301 - from a process of ours
            mailbox = self.mailbox
            if mailbox is None:
                server = self._find_server()
                mailbox = self.mailbox = PushedReplies(
                    server, self._stream, self._attachments, frame.caller, self._journal
                )
            mailbox.take(frame)

    def ended(self, error: BaseException) -> None:
        """As `Incoming.ended`."""
        self._error = error
        self._over.set()

    def wait(self) -> None:
        """Wait until another thread has read it to its end; raises what ended it."""
        self._over.wait()
        raise self._error

    def close(self) -> None:
        """It has ended: give up what the caller has here."""
        self._stream.close()
        if self.mailbox is not None:
            self.mailbox.leave()
            if self._carrier is not None:
                self._carrier.leave(self.mailbox.caller)


def carry_calls(find_server: Callable[[], CallServer], end: socket, carrier: CallersCarrier | None = None) -> None:
    """
    Take the frames of one caller, and answer them, until the connection ends; then give up what that caller has here.

    Args:
        find_server: Gives the replica when the first frame has come.
        end: This side of the connection; at the other side is a `sockets.transport.SocketTransport`.
        carrier: Carries references; None if there are none.
    """
    try:
        connection = _Connection(find_server, end, carrier)
    except (EOFError, OSError):
        end.close()
        return
    try:
        while connection.mailbox is None:
            connection.read()
        socket_inbox = find_server().socket_inbox
        if socket_inbox is not None and socket_inbox.attend(connection):
            connection.wait()
        while True:
            connection.read()
    except (EOFError, OSError, MessageError):
        pass
    finally:
        connection.close()
