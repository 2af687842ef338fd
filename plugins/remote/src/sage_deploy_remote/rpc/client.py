"""The calling side: sends requests in order, and sets the future of each when its reply comes."""

from __future__ import annotations

import os
import pickle
import threading
import weakref
from concurrent.futures import Future
from contextlib import suppress
from copy import copy
from functools import partial
from itertools import count
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_remote.link.rpc_transport import failed_answer
from sage_deploy_remote.link.sockets.inheritance import closed_in_copies
from sage_deploy_remote.payloads.errors import unpack_error
from sage_deploy_remote.rpc.address import hang_up
from sage_deploy_remote.rpc.messages import join, split
from sage_plugins.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

__all__ = ["RpcClient"]

#: Seconds to wait for a thread that was told to end; it may be stuck with a suspended process.
_JOIN_S: Final = 1.0


class RpcClient:
    """
    Calls methods in another process. The connection ends with `close`, or when nobody refers to the client any more.

    May be used from any thread. It has two threads, a reader and a writer, so that no caller waits for a suspended
    process.

    Attributes:
        ended: Fails when the connection ends, or cannot be made.
    """

    def __init__(self, connect: Callable[[], Connection[Any, Any]], name: str) -> None:
        """
        Begin to connect; returns at once.

        Args:
            connect: Makes the connection; called in the client's reader thread.
            name: Prefix for the names of the threads.
        """
        self._state = _ClientState(name)
        self.ended = self._state.ended
        self._state.finalizer = weakref.finalize(self, self._state.hang_up)
        self._state.finalizer.atexit = False
        self._thread = start_thread(partial(self._state.run, connect), f"{name}-reader")

    def request(self, method: str, *arguments: Any) -> Future[Any]:
        """Call a method in the other process, and return a future for its result. Never blocks or raises."""
        return self._state.request(method, arguments)

    def close(self) -> None:
        """End the connection; unanswered requests fail."""
        self._state.hang_up()
        self._thread.join(_JOIN_S)


class _ClientState:
    """The state that a client shares with its threads. They must not keep the client alive."""

    finalizer: weakref.finalize[..., RpcClient]

    def __init__(self, name: str) -> None:
        self.ended: Future[None] = Future()
        self._name = name
        self._process = os.getpid()
        self._numbers = count()
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        self._lock = threading.RLock()  # re-entrant: garbage collection may call `hang_up` at any point
        self._answers: dict[int, Future[Any]] = {}  # guarded by _lock, as all that follows
        self._gone: Exception | None = None
        self._connection: Connection[Any, Any] | None = None
        self._closed = False

    def request(self, method: str, arguments: tuple[Any, ...]) -> Future[Any]:
        answer: Future[Any] = Future()
        number = next(self._numbers)
        try:
            message = join(number, (method, arguments))
        except Exception as error:  # noqa: BLE001 - pickling an argument may raise anything
            return failed_answer(error)
        with self._lock:
            if self._gone is not None:
                return failed_answer(copy(self._gone))  # a copy, because each raise extends the traceback
            self._answers[number] = answer
            self._outgoing.put(message)
        return answer

    def hang_up(self) -> None:
        if os.getpid() != self._process:  # in a forked child, the connection belongs to the parent
            return
        with self._lock:
            self._closed = True
            if self._connection is not None:
                hang_up(self._connection)

    def run(self, connect: Callable[[], Connection[Any, Any]]) -> None:
        """Read until the connection ends."""
        try:
            connection = closed_in_copies(connect())
        except Exception as error:  # noqa: BLE001 - nobody listens there, or another program does
            self._end(error)
            return
        with self._lock:
            self._connection = connection
        if self._closed:
            hang_up(connection)
        try:
            writer = start_thread(partial(self._write, connection), f"{self._name}-writer")
        except RuntimeError as error:  # the system allows no more threads
            self._free(connection)
            self._end(error)
            return
        with suppress(EOFError, OSError):
            while True:
                self._arrived(connection.recv_bytes())
        self._outgoing.put(None)
        hang_up(connection)  # the other process may have closed only one direction
        writer.join()
        self._free(connection)
        self._end(ConnectionResetError("the process at the other end has closed the connection, or has ended"))

    def _free(self, connection: Connection[Any, Any]) -> None:
        with self._lock:
            self._connection = None
            connection.close()

    def _arrived(self, message: bytes) -> None:
        number, body = split(message)
        with self._lock:
            answer = self._answers.pop(number)
        try:
            result, error = pickle.loads(body)  # noqa: S301 - from a process of this deployment
        except Exception as unreadable:  # noqa: BLE001 - if a module is missing here, unpickling may raise anything
            answer.set_exception(unreadable)
            return
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(unpack_error(error))

    def _write(self, connection: Connection[Any, Any]) -> None:
        with suppress(OSError):  # the connection has ended; the reader finds that too
            while (message := self._outgoing.get()) is not None:
                connection.send_bytes(message)

    def _end(self, cause: Exception) -> None:
        with self._lock:
            self._gone, answers = cause, tuple(self._answers.values())
            self._answers.clear()
        for answer in (*answers, self.ended):
            answer.set_exception(cause)
        self.finalizer.detach()  # it keeps this object alive, whose errors keep their waiters alive
