"""Sends replies to one caller over its own connection, as soon as there is something to say."""

from __future__ import annotations

import pickle
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from sage_deploy_remote.link import protocol
from sage_deploy_remote.link.sockets.attachments import Attachments, Carrier
from sage_deploy_remote.link.sockets.journal import Journal
from sage_deploy_remote.link.sockets.message_socket import MessageSocket
from sage_deploy_remote.link.sockets.messages import MessageError, pickled
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

#: Answers of at most this many bytes may wait in the journal.
_SMALL_ANSWER: Final = 2**12


class CallersCarrier(Carrier, Protocol):
    """A `Carrier` that all callers of a replica share."""

    def release(self, mark: str) -> None:
        """Note that the call with *mark* in its arguments is over and does not use them any more; never blocks."""

    def forget_caller(self, caller: str) -> None:
        """Discard what was on its way for *caller*, whose connection has ended."""


class PushedReplies:
    """
    Does what `outbox.Outbox` does, for a caller with a connection. When the connection ends, the caller is gone.

    A thread that posts a reply sends it, together with the replies that other threads have posted.

    Attributes:
        caller: The caller's name.
        calls: Its calls that are not answered yet, by the caller's number.
    """

    sends_at_once = True

    def __init__(
        self,
        server: CallServer,
        message_socket: MessageSocket,
        attachments: Attachments,
        caller: str,
        journal: Journal | None = None,
    ) -> None:
        self.caller = caller
        self.calls: dict[int, Call] = {}
        self._server = server
        self._socket = message_socket
        self._attachments = attachments
        self._replies: deque[Reply] = deque()
        self._send_lock = threading.Lock()  # its holder sends
        self._number = 0  # of the next response; for the holder of `_send_lock`, as the next
        self._journal = journal
        self._started: dict[int, Reply] = {}  # starts of unanswered calls, only in the journal
        self._journal_is_stale = False  # whether the journal still has replies that were sent
        self._bundles: list[Bundle] = []  # that may have calls to return; guarded by _bundles_lock, as the next
        self._timer: Timer | None = None
        self._bundles_lock = threading.Lock()
        server.callers.add(self)

    def take(self, frame: Frame) -> None:
        """Take the caller's next frame."""
        self._server.take(self, frame)

    def disconnect(self) -> None:
        """Give up the caller's calls, because its connection has ended."""
        with self._send_lock:
            journal, self._journal = self._journal, None
        if journal is not None:
            journal.free()
        self._server.callers.disconnected(self)

    def begin_unit(self) -> None:
        """As `callers.Mailbox.begin_unit`."""

    def post(self, reply: Reply, *, wakes: bool = True) -> None:
        """As `callers.Mailbox.post`."""
        self._queue_reply(reply)
        if wakes:
            self._send()

    def _queue_reply(self, reply: Reply) -> None:
        self._replies.append(reply)
        if reply[0] in _ANSWERS:  # after the append: until the answer is queued, the caller must learn of the start
            self._started.pop(reply[1], None)

    def record_start(self, id: int) -> bool:
        """As `callers.Mailbox.record_start`: data that the system has accepted will arrive."""
        reply = protocol.STARTING, id
        with self._send_lock:  # held only briefly
            if self._in_journal(reply):
                self._started[id] = reply
                return True
            self._replies.append(reply)
            self._send_all()
        self._send()
        return self._socket.all_accepted

    def journal_or_send(self, reply: Reply) -> None:
        """As `callers.Mailbox.journal_or_send`: write a small result into the journal, or send *reply* now."""
        with self._send_lock:
            self._queue_reply(reply)
            if reply[0] == protocol.DONE and _is_small(reply[2]) and self._in_journal(reply):
                return
            self._send_all()
        self._send()

    def _in_journal(self, reply: Reply) -> bool:
        """
        Write *reply* into the journal; return False if the caller may not find it there.

        For the holder of `_send_lock`.
        """
        journal = self._journal
        if journal is None or not self._socket.all_accepted:
            return False
        if self._journal_is_stale:
            self._journal_is_stale = False
            journal.begin_response(self._number)
        return journal.add(reply)

    def end_unit(self, reply: Reply | None = None) -> None:
        """As `callers.Mailbox.end_unit`."""
        if reply is not None:
            self._replies.append(reply)
        self._send()

    def forget(self, id: int) -> None:
        """As `callers.Mailbox.forget`."""
        self.calls.pop(id, None)
        self._attachments.call_ended(id)

    def _send(self) -> None:
        while self._replies and self._send_lock.acquire(blocking=False):
            try:
                self._send_all()
            finally:
                self._send_lock.release()
        self._server.wake_vacate()

    def _send_all(self) -> None:
        """Send all queued replies; for the holder of `_send_lock`."""
        waiting = self._replies
        replies = list(self._started.values())
        self._started.clear()
        while waiting:  # the holder of `_send_lock` alone takes replies
            replies.append(waiting.popleft())
        if replies:
            number, self._number = self._number, self._number + 1
            self._socket.send(*pickled(self._attachments.replies_to_plain(self.caller, number, replies)))
            self._journal_is_stale = True

    @property
    def has_replies(self) -> bool:
        """Whether there are replies that the connection has not accepted yet."""
        return bool(self._replies) or self._socket.has_unsent

    # -- calls that were sent ahead ----------------------------------------------------------------------------------

    def watch(self, bundle: Bundle) -> None:
        """As `callers.Mailbox.watch`."""
        with self._bundles_lock:
            self._bundles.append(bundle)
            self._schedule_check(bundle.due)

    def _schedule_check(self, due: float) -> None:
        if self._timer is None:
            self._timer = SYSTEM.call_at(due, self._return_overdue)

    def _return_overdue(self) -> None:
        with self._bundles_lock:
            self._timer = None
            now = SYSTEM.monotonic()
            overdue = [bundle for bundle in self._bundles if bundle.due <= now]
            self._bundles = [bundle for bundle in self._bundles if bundle.waiting and bundle.due > now]
            if self._bundles:
                self._schedule_check(min(bundle.due for bundle in self._bundles))
        for bundle in overdue:
            bundle.give_back()
        self._send()  # answers that were held back

    # -- whether the caller is gone ----------------------------------------------------------------------------------

    def close_if_silent(self, before: float) -> bool:  # noqa: ARG002 - as in `Outbox`
        """As `callers.Mailbox.close_if_silent`: always False, because a silent caller with a connection is not gone."""
        return False

    def is_gone(self, before: float) -> bool:  # noqa: ARG002 - as above
        """As `callers.Mailbox.is_gone`: always False, for the same reason."""
        return False


def _is_small(payload: Payload) -> bool:
    """Whether copying *payload* costs next to nothing."""
    data, buffers, references = payload
    return not (buffers or references) and len(data) <= _SMALL_ANSWER


class _Connection:
    """The connection of one caller."""

    def __init__(self, find_server: Callable[[], CallServer], end: socket, carrier: CallersCarrier | None) -> None:
        self._find_server = find_server
        self._carrier = carrier
        self._socket, self._attachments = MessageSocket(end), Attachments(carrier)
        self._journal = Journal.accept(end)
        self._has_ended = threading.Event()
        self._error: BaseException = EOFError()
        self.fileno = end.fileno
        self.mailbox: PushedReplies | None = None

    def read(self) -> None:
        for body, buffers in self._socket.receive():
            frame = self._attachments.frame_from_plain(pickle.loads(body, buffers=buffers))  # noqa: S301 - from our own process
            mailbox = self.mailbox
            if mailbox is None:
                server = self._find_server()
                mailbox = self.mailbox = PushedReplies(
                    server, self._socket, self._attachments, frame.caller, self._journal
                )
            mailbox.take(frame)

    def ended(self, error: BaseException) -> None:
        self._error = error
        self._has_ended.set()

    def wait(self) -> None:
        """Wait until another thread has read the connection to its end; raises what ended it."""
        self._has_ended.wait()
        raise self._error

    def close(self) -> None:
        """Free the connection, which has ended, and give up the caller's calls."""
        self._socket.close()
        if self.mailbox is not None:
            self.mailbox.disconnect()
            if self._carrier is not None:
                self._carrier.forget_caller(self.mailbox.caller)


def carry_calls(find_server: Callable[[], CallServer], end: socket, carrier: CallersCarrier | None = None) -> None:
    """
    Take and answer the frames of one caller until the connection ends; then give up its calls.

    Args:
        find_server: Returns the replica; called when the first frame has come.
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
        if socket_inbox is not None and socket_inbox.read_connection(connection):
            connection.wait()
        while True:
            connection.read()
    except (EOFError, OSError, MessageError):
        pass
    finally:
        connection.close()
