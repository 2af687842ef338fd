"""
Checkpoints in a service's code: a call that reaches one reports to the test, and waits until the test lets it go on.

A checkpoint can be pickled, and works in this process and in other processes of this machine. It is a loopback address
where the test's `Switchboard` listens. Nothing polls or sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import socket
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

__all__ = ["Checkpoint", "Switchboard", "Watch"]

#: Sent to a call that may go on.
_GO: Final = b"\n"


class Checkpoint(NamedTuple):
    """
    The service's side of a checkpoint.

    Attributes:
        port: The port of the switchboard.
        number: Number of the checkpoint on that switchboard.
        patience: Seconds until `reach` gives up waiting.
    """

    port: int
    number: int
    patience: float

    def reach(self, value: Any = None) -> None:
        """
        Report *value*, which JSON must be able to represent, and wait until the test lets go. Thread-safe.

        Raises:
            TimeoutError: The test did not let go within `patience`. Most likely it waits for this very thread.
        """
        with socket.create_connection(("127.0.0.1", self.port), self.patience) as connection:
            connection.sendall(self._report(value))
            connection.recv(1)

    async def areach(self, value: Any = None) -> None:
        """As `reach`, without blocking the event loop."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(self._report(value))
            await asyncio.wait_for(reader.read(1), self.patience)
        finally:
            writer.close()

    def _report(self, value: Any) -> bytes:
        return json.dumps([self.number, value]).encode() + b"\n"


class Watch:
    """
    The test's side of one checkpoint, made by `Switchboard.watch`. Thread-safe.

    Attributes:
        checkpoint: Give it to the service.
    """

    def __init__(self, checkpoint: Checkpoint, patience: float) -> None:
        self.checkpoint = checkpoint
        self._patience = patience
        self._values: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._held: list[socket.socket] = []  # guarded by _lock, as the next
        self._opened = False

    def wait(self, reports: int = 1) -> list[Any]:
        """
        Wait for the next *reports* reports, and return them in order.

        Raises:
            AssertionError: They did not come in time.
        """
        values: list[Any] = []
        for number in range(reports):
            try:
                values.append(self._values.get(timeout=self._patience))
            except queue.Empty:
                msg = f"{number} of {reports} came to the checkpoint in {self._patience:g} s"
                raise AssertionError(msg) from None
        return values

    def seen(self) -> list[Any]:
        """Return the reports that nothing has waited for, without waiting."""
        return [self._values.get() for _ in range(self._values.qsize())]

    def open(self) -> None:
        """Let all callers go on, now and later. Idempotent."""
        with self._lock:
            self._opened = True
            held, self._held = self._held, []
        for connection in held:
            _let_go(connection)

    def arrived(self, connection: socket.socket, value: Any) -> None:
        """Record a report. The switchboard calls it."""
        self._values.put(value)
        with self._lock:
            if not self._opened:
                self._held.append(connection)
                return
        _let_go(connection)


class Switchboard:
    """Listens on the loopback for all checkpoints of one test, in its own thread. A context manager."""

    def __init__(self, patience: float) -> None:
        """
        Start to listen.

        Args:
            patience: Seconds after which an expected report counts as missing.
        """
        self._patience = patience
        self._watches: list[Watch] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._port: int = self._listener.getsockname()[1]
        self._closing = False
        self._thread = threading.Thread(target=self._listen, name="switchboard", daemon=True)
        self._thread.start()

    def watch(self, *, held: bool = True) -> Watch:
        """Return a new checkpoint. If not *held*, callers that reach it report and go on at once."""
        watch = Watch(Checkpoint(self._port, len(self._watches), 2 * self._patience), self._patience)
        if not held:
            watch.open()
        self._watches.append(watch)
        return watch

    def _listen(self) -> None:
        for connection in self._connections():
            # Only checkpoints connect. Each sends its one line at once.
            with connection.makefile("rb") as lines:
                line = lines.readline()
            if line:
                number, value = json.loads(line)
                self._watches[number].arrived(connection, value)
                continue
            connection.close()  # from `close`, or from a process that died during its report
            if self._closing:
                return

    def _connections(self) -> Iterator[socket.socket]:
        while True:
            yield self._listener.accept()[0]

    def open_all(self) -> None:
        """Let all callers go on, now and later."""
        for watch in self._watches:
            watch.open()

    def close(self) -> None:
        """Let all callers go on, and stop listening."""
        self.open_all()
        self._closing = True
        with socket.create_connection(("127.0.0.1", self._port)):
            pass
        self._thread.join()
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _let_go(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):  # its coroutine was cancelled, or its process died
        connection.sendall(_GO)
