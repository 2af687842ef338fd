"""The caller's side of one connection: decides which thread reads the replica's responses."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from sage_deploy_remote.link.deferred_signals import DeferredSignals
from sage_plugins.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_deploy_remote.link.sockets.message_socket import MessageSocket
    from sage_deploy_remote.link.sockets.messages import Message
    from sage_plugins.call.call import Call

__all__ = ["ConnectionReader"]

#: Seconds that the reader thread waits for work before it ends.
_IDLE_S: Final = 1.0
#: Seconds that a reading thread gets to find that the connection has ended.
_JOIN_S: Final = 1.0


class ConnectionReader:
    """
    Reads one connection in a thread that waits for its responses anyway.

    One thread at a time reads: the *leader*. A caller that waits in `call` leads if it alone waits for anything; then
    no thread has to be woken for its answer. Otherwise the channel's own thread leads, which runs only while something
    is awaited. A thread that stops leading checks whether something is still awaited, and a thread that sends checks
    whether anybody leads. So nothing stays unread.
    """

    def __init__(
        self,
        message_socket: MessageSocket,
        name: str,
        arrived: Callable[[Message, Call | None], None],
        ended: Callable[[Exception], None],
        awaited: Callable[[], int],
    ) -> None:
        """
        Read nothing yet.

        Args:
            message_socket: The connection to read.
            name: The thread's name.
            arrived: Called by the leader for each message, with the call for which it waits; None for the channel's
                thread.
            ended: Called once, with the reason why no more messages come.
            awaited: Returns the number of calls about which the replica has something to say.
        """
        self._socket = message_socket
        self._name = name
        self._arrived = arrived
        self._ended = ended
        self._awaited = awaited
        self._leader_lock = threading.Lock()  # its holder is the leader
        self._has_ended = False  # whether the connection has ended; set by the leader
        self._finishing = False  # whether to read until the connection ends, even if nothing is awaited
        self._wakeup = threading.Event()  # set when the thread may have something to do
        self._thread_lock = threading.Lock()
        self._thread: threading.Thread | None = None  # guarded by _thread_lock

    # -- as an `Exchange` --------------------------------------------------------------------------------------------

    def wait(self, call: Call, seconds: float | None) -> None:
        """As `Exchange.wait`; returns at once if another thread reads, because that thread then ends the call."""
        if self._awaited() > 1 or not self._leader_lock.acquire(blocking=False):
            self.read_elsewhere()
            return
        try:
            until = None if seconds is None else time.monotonic() + seconds
            while not (self._has_ended or call.over() or call.answered):
                with DeferredSignals(waits=True) as signals:
                    ready = self._socket.wait(None if until is None else until - time.monotonic())
                    signals.waited()
                    if not ready:
                        break
                    self._read(call)
        finally:
            self._leader_lock.release()
            self.read_elsewhere()

    def read_elsewhere(self) -> None:
        """As `Exchange.read_elsewhere`: let a thread read if something is awaited."""
        if not self._has_ended and (self._finishing or self._awaited()) and not self._leader_lock.locked():
            self._wakeup.set()
            if self._thread is None:
                with self._thread_lock:
                    if self._thread is None:
                        self._thread = start_thread(self._run, self._name)

    # -- reading -----------------------------------------------------------------------------------------------------

    def _read(self, call: Call | None) -> None:
        """Read what is there; for the leader."""
        try:
            for message in self._socket.receive():
                self._arrived(message, call)
        except Exception as error:  # noqa: BLE001 - the connection has ended, or the other end sent no message
            self._has_ended = True
            self._socket.close()
            self._ended(error)

    def _run(self) -> None:
        """Read while something is awaited; end after a while with nothing to do."""
        while True:
            woken = self._wakeup.wait(_IDLE_S)
            self._wakeup.clear()
            while (
                not self._has_ended
                and (self._finishing or self._awaited())
                and self._leader_lock.acquire(blocking=False)
            ):
                try:
                    while not self._has_ended and (self._finishing or self._awaited()):
                        self._read(None)
                finally:
                    self._leader_lock.release()
            if not woken or self._has_ended:
                with self._thread_lock:
                    if self._has_ended or not self._wakeup.is_set():
                        self._thread = None
                        return

    # -- end ---------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """End the connection, read what came before, and report the end; return at once."""
        self._finishing = True
        self._socket.hang_up()
        self.read_elsewhere()

    def close(self) -> None:
        """
        End the connection after reading all that came.

        These messages may say which calls had started in a killed process.
        """
        self._socket.hang_up()
        if not self._has_ended and self._leader_lock.acquire(timeout=_JOIN_S):  # fails if this thread reads itself
            try:
                while not self._has_ended:
                    self._read(None)
            finally:
                self._leader_lock.release()
        self._socket.close()
        self._wakeup.set()
        with self._thread_lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_S)
