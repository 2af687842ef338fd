"""The caller's side of one connection: who reads what the replica says."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from sage_deploy_remote.link.deferred_signals import DeferredSignals
from sage_plugins.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_deploy_remote.link.sockets.messages import Message
    from sage_deploy_remote.link.sockets.stream import Stream
    from sage_plugins.call.call import Call

__all__ = ["Channel"]

#: Seconds for which the thread that reads waits for something to do before it ends.
_IDLE_S: Final = 1.0
#: Seconds for whoever reads to find that the connection has ended.
_JOIN_S: Final = 1.0


class Channel:
    """
    Reads what comes over one connection, in a thread that waits for it anyway.

    One thread at a time reads: the *leader*. A caller that waits in `call` is it if nobody else waits for anything:
    that saves waking it. Otherwise the channel's own thread is, which runs only while something is awaited. Whoever
    leaves looks whether something is awaited still, and whoever sends looks whether somebody leads; so nothing is left
    unread.
    """

    def __init__(
        self,
        stream: Stream,
        name: str,
        arrived: Callable[[Message, Call | None], None],
        ended: Callable[[Exception], None],
        awaited: Callable[[], int],
    ) -> None:
        """
        Read nothing yet.

        Args:
            stream: What to read.
            name: Of the thread.
            arrived: Told of each message, by the leader; and the call for which that waits, None for the thread.
            ended: Told once why there will be no more.
            awaited: Of how many calls the replica has something to say.
        """
        self._stream = stream
        self._name = name
        self._arrived = arrived
        self._ended = ended
        self._awaited = awaited
        self._lead = threading.Lock()
        self._over = False  # whether the connection has ended; set by the leader
        self._finishing = False  # whether to read until it ends, though nothing is awaited
        self._told = threading.Event()  # that the thread may have something to do
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None  # guarded by _starting

    # -- as an `Exchange` --------------------------------------------------------------------------------------------

    def wait(self, call: Call, seconds: float | None) -> None:
        """As `Exchange.wait`; returns at once if another thread reads: then the call ends by that."""
        if self._awaited() > 1 or not self._lead.acquire(blocking=False):
            self.leave()
            return
        try:
            until = None if seconds is None else time.monotonic() + seconds
            while not (self._over or call.over() or call.answered):
                with DeferredSignals(waits=True) as signals:
                    ready = self._stream.wait(None if until is None else until - time.monotonic())
                    signals.waited()
                    if not ready:
                        break
                    self._read(call)
        finally:
            self._lead.release()
            self.leave()

    def leave(self) -> None:
        """As `Exchange.leave`: have somebody read if something is awaited."""
        if not self._over and (self._finishing or self._awaited()) and not self._lead.locked():
            self._told.set()
            if self._thread is None:
                with self._starting:
                    if self._thread is None:
                        self._thread = start_thread(self._run, self._name)

    # -- reading -----------------------------------------------------------------------------------------------------

    def _read(self, call: Call | None) -> None:
        """Read what is there; for the leader."""
        try:
            for message in self._stream.receive():
                self._arrived(message, call)
        except Exception as error:  # noqa: BLE001 - the connection has ended, or there is none
            self._over = True
            self._stream.close()
            self._ended(error)

    def _run(self) -> None:
        """Read while something is awaited; ends when there was nothing to do for a while."""
        while True:
            told = self._told.wait(_IDLE_S)
            self._told.clear()
            while not self._over and (self._finishing or self._awaited()) and self._lead.acquire(blocking=False):
                try:
                    while not self._over and (self._finishing or self._awaited()):
                        self._read(None)
                finally:
                    self._lead.release()
            if not told or self._over:
                with self._starting:
                    if self._over or not self._told.is_set():
                        self._thread = None
                        return

    # -- its end -----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """End the connection, read what has come before, and tell that it has ended; returns at once."""
        self._finishing = True
        self._stream.hang_up()
        self.leave()

    def close(self) -> None:
        """End the connection, once all that has come is read: it may say what had started in a killed process."""
        self._stream.hang_up()
        if not self._over and self._lead.acquire(timeout=_JOIN_S):  # else it may be this thread that reads
            try:
                while not self._over:
                    self._read(None)
            finally:
                self._lead.release()
        self._stream.close()
        self._told.set()
        with self._starting:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_S)
