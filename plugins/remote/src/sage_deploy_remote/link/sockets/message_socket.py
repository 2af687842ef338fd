"""One end of a connection that carries messages in both directions."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from contextlib import suppress
from functools import partial
from socket import MSG_DONTWAIT, SHUT_RDWR
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_remote.link.sockets.inheritance import closed_in_copies
from sage_deploy_remote.link.sockets.messages import MessageAssembler, allocate, join
from sage_plugins.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from socket import socket

    from sage_deploy_remote.link.sockets.messages import Message

__all__ = ["MessageSocket"]

#: Bytes to read at once.
_CHUNK: Final = 2**16
#: Messages up to this many bytes are joined and sent in one call; larger ones are sent in parts.
_TOGETHER: Final = 2**16
#: The most parts that one system call accepts on every system.
_PARTS: Final = 512
#: Longest wait of `poll`, in milliseconds, a C int; rounded down.
_LONGEST_POLL_MS: Final = 2_000_000_000


class MessageSocket:
    """
    One end of a connection.

    `send` may be called from any thread and never blocks. `wait` and `receive` are for one thread at a time. A thread
    that sends also sends what other threads have queued at that moment. What the other end does not accept at once is
    copied, and a separate thread sends it.
    """

    def __init__(self, end: socket) -> None:
        """Use *end*, which belongs to this object from now on."""
        end.settimeout(None)
        self._end = closed_in_copies(end)
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)
        self._process = os.getpid()
        self._outgoing: deque[list[Any]] = deque()
        self._send_lock = threading.Lock()  # its holder sends
        self._broken = False
        self._messages = MessageAssembler()

    @property
    def has_unsent(self) -> bool:
        """Whether there is something to send that the other end has not accepted yet."""
        return not self._broken and (bool(self._outgoing) or self._send_lock.locked())

    @property
    def all_accepted(self) -> bool:
        """Whether the system has accepted everything that was to be sent; False if the connection has ended."""
        return not (self._broken or self._outgoing or self._send_lock.locked())

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(self, body: bytes, buffers: Sequence[Any] = ()) -> bool:
        """Send a message; return False if the connection ended before, so that nothing of the message has arrived."""
        message = join(body, buffers)
        self._outgoing.append(message)
        return self._send_waiting(message)

    def _send_waiting(self, own: list[Any] | None = None) -> bool:
        """Send queued messages, unless another thread does; return False if it was too late for *own*."""
        in_time = True
        while self._outgoing and self._send_lock.acquire(blocking=False):
            messages = self._take_queued()
            try:
                rest = self._send_some(
                    messages[0] if len(messages) == 1 else [part for message in messages for part in message]
                )
            except BaseException:
                self._send_lock.release()
                raise
            if rest is None:
                in_time = in_time and not any(message is own for message in messages)
            elif rest:
                try:
                    start_thread(partial(self._send_rest, rest), "link-writer")  # that thread holds the lock now
                except RuntimeError:  # no more threads: half a message has left, so the connection is of no use
                    self._broken = True
                    self.hang_up()
                else:
                    return in_time
            self._send_lock.release()
        return in_time

    def _take_queued(self) -> list[list[Any]]:
        outgoing = self._outgoing
        messages = [outgoing.popleft()] if outgoing else []  # the holder of `_send_lock` alone takes messages
        while outgoing:
            messages.append(outgoing.popleft())
        return messages

    def _send_some(self, parts: list[Any]) -> list[memoryview] | None:
        """Send what the other end accepts at once; return a copy of the rest, or None if the connection has ended."""
        if self._broken:
            return None
        try:
            if len(parts) == 1 or sum(map(len, parts)) <= _TOGETHER:
                data = parts[0] if len(parts) == 1 else b"".join(parts)
                sent = self._end.send(data, MSG_DONTWAIT)
                if sent == len(data):
                    return []
                parts = [data]
            else:
                sent = self._end.sendmsg(parts[:_PARTS], (), MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:  # the connection has ended; the reader finds that too
            self._broken = True
            return None
        return [_copied(part) for part in _without(parts, sent)]

    def _send_rest(self, parts: list[memoryview]) -> None:
        """Send *parts* and what is queued meanwhile, and wait for the other end."""
        try:
            while parts:
                parts = _without(parts, self._end.sendmsg(parts[:_PARTS]))
                parts = parts or [memoryview(part) for message in self._take_queued() for part in message]
        except OSError:
            self._broken = True
            self._outgoing.clear()
        finally:
            self._send_lock.release()
        self._send_waiting()

    # -- reading -----------------------------------------------------------------------------------------------------

    def wait(self, seconds: float | None) -> bool:
        """
        Wait until there is something to read or the connection has ended; return False after *seconds*.

        Returns False after 20 days at the latest.
        """
        return bool(self._poll.poll(None if seconds is None else max(0.0, min(seconds * 1000, _LONGEST_POLL_MS))))

    def receive(self) -> Iterable[Message]:
        """
        Wait for the next bytes; return the messages that are complete with them, perhaps none.

        Raises:
            EOFError: The other end has closed the connection.
            OSError: The connection is broken.
            MessageError: The bytes after those messages are no message; raised when the messages were taken.
        """
        room = self._messages.room
        if room is None:
            data = self._end.recv(_CHUNK)
            if not data:
                raise EOFError
            return self._messages.take(data)
        number = self._end.recv_into(room)
        if not number:
            raise EOFError
        return self._messages.filled(number)

    # -- its end -----------------------------------------------------------------------------------------------------

    def hang_up(self) -> None:
        """Shut down the connection; what the other end has sent before can still be read. Idempotent."""
        if os.getpid() == self._process:  # in a forked child, the connection belongs to the parent
            with suppress(OSError):
                self._end.shutdown(SHUT_RDWR)

    def close(self) -> None:
        """End the connection and free its descriptor; for the reading thread."""
        self.hang_up()
        self._broken = True
        with self._send_lock:  # wait for a sender to notice the end: the system may use the descriptor's number again
            self._end.close()


def _copied(part: Any) -> memoryview:
    view = memoryview(part)
    if isinstance(view.obj, bytes):
        return view
    copy = memoryview(allocate(view.nbytes))
    copy[:] = view
    return copy


def _without(parts: Sequence[Any], sent: int) -> list[Any]:
    """Return what is left of *parts* after *sent* bytes of them were sent."""
    for index, part in enumerate(parts):
        size = len(part)
        if sent < size:
            return [memoryview(part)[sent:], *parts[index + 1 :]]
        sent -= size
    return []
