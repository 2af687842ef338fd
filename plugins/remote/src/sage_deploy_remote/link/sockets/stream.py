"""One end of a connection that carries messages both ways."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from contextlib import suppress
from functools import partial
from socket import MSG_DONTWAIT, SHUT_RDWR
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_remote.link.sockets.messages import Messages, join, memory
from sage_plugins.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from socket import socket

    from sage_deploy_remote.link.sockets.messages import Message

__all__ = ["Stream"]

#: Bytes that are read at once.
_CHUNK: Final = 2**16
#: Bytes that are put together to be sent at once; more is sent as it is.
_TOGETHER: Final = 2**16
#: The most parts that one system call takes on every system.
_PARTS: Final = 512


class Stream:
    """
    One end of a connection.

    `send` may be called from any thread, and never blocks; `wait` and `receive` by one thread at a time. Whoever sends
    also sends what others have to send at that moment. What the other end does not take at once is sent by a thread of
    its own, and copied for that.
    """

    def __init__(self, end: socket) -> None:
        """Use *end*, which belongs to this from now on."""
        end.settimeout(None)
        self._end = end
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)
        self._process = os.getpid()
        self._outgoing: deque[list[Any]] = deque()
        self._turn = threading.Lock()  # whose holder sends
        self._broken = False
        self._messages = Messages()

    @property
    def unsent(self) -> bool:
        """Whether there is something that the other end has not taken yet."""
        return not self._broken and (bool(self._outgoing) or self._turn.locked())

    @property
    def taken(self) -> bool:
        """Whether the system has taken all that was to be sent; False if the connection has ended."""
        return not (self._broken or self._outgoing or self._turn.locked())

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(self, body: bytes, buffers: Sequence[Any] = ()) -> bool:
        """Send a message; False if the connection had ended before, so that nothing of it has arrived."""
        message = join(body, buffers)
        self._outgoing.append(message)
        return self._send_waiting(message)

    def _send_waiting(self, own: list[Any] | None = None) -> bool:
        """Send what waits, unless another thread is at it; False if it was too late for *own*."""
        in_time = True
        while self._outgoing and self._turn.acquire(blocking=False):
            messages = self._take()
            try:
                rest = self._send_some(
                    messages[0] if len(messages) == 1 else [part for message in messages for part in message]
                )
            except BaseException:
                self._turn.release()
                raise
            if rest is None:
                in_time = in_time and not any(message is own for message in messages)
            elif rest:
                start_thread(partial(self._send_rest, rest), "link-writer")  # it has the turn now
                return in_time
            self._turn.release()
        return in_time

    def _take(self) -> list[list[Any]]:
        outgoing = self._outgoing
        messages = [outgoing.popleft()] if outgoing else []  # nobody else takes any
        while outgoing:
            messages.append(outgoing.popleft())
        return messages

    def _send_some(self, parts: list[Any]) -> list[memoryview] | None:
        """Send what the other end takes at once; gives a copy of the rest, or None if it takes nothing any more."""
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
        except OSError:  # it has ended; whoever reads finds that, too
            self._broken = True
            return None
        return [_kept(part) for part in _without(parts, sent)]

    def _send_rest(self, parts: list[memoryview]) -> None:
        """Send *parts* and whatever comes meanwhile, waiting for the other end."""
        try:
            while parts:
                parts = _without(parts, self._end.sendmsg(parts[:_PARTS]))
                parts = parts or [memoryview(part) for message in self._take() for part in message]
        except OSError:
            self._broken = True
            self._outgoing.clear()
        finally:
            self._turn.release()
        self._send_waiting()

    # -- reading -----------------------------------------------------------------------------------------------------

    def wait(self, seconds: float | None) -> bool:
        """Wait until there is something to read, or the connection has ended; False if *seconds* are over before."""
        return bool(self._poll.poll(None if seconds is None else max(0.0, seconds * 1000)))

    def receive(self) -> Iterable[Message]:
        """
        Wait for the next bytes; gives the messages that are complete with them, perhaps none.

        Raises:
            EOFError: The other end has ended the connection.
            OSError: The connection is broken.
            MessageError: What came after those messages is none; raised when they have been taken.
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
        """End the connection; what the other end has sent before can still be read. Idempotent."""
        if os.getpid() == self._process:  # not in a forked child: the connection is its parent's
            with suppress(OSError):
                self._end.shutdown(SHUT_RDWR)

    def close(self) -> None:
        """End the connection, and free what it has of the system; for the thread that reads."""
        self.hang_up()
        self._broken = True
        with self._turn:  # whoever is sending finds that it has ended; its number may be another file's from now on
            self._end.close()


def _kept(part: Any) -> memoryview:
    """*part* as it is now, whatever its owner does with it."""
    view = memoryview(part)
    if isinstance(view.obj, bytes):
        return view
    copy = memoryview(memory(view.nbytes))
    copy[:] = view
    return copy


def _without(parts: Sequence[Any], sent: int) -> list[Any]:
    """What is left of *parts* when so many bytes of them are sent."""
    for index, part in enumerate(parts):
        size = len(part)
        if sent < size:
            return [memoryview(part)[sent:], *parts[index + 1 :]]
        sent -= size
    return []
