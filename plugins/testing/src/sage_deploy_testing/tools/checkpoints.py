"""
Places in a service's code that a test watches: who comes by reports there, and stays until the test lets it go.

A checkpoint is picklable and works wherever the service runs, in this process or in another one of this machine: it
is an address on the loopback, where the test's `Switchboard` listens. Nobody polls and nobody sleeps.
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

#: What is sent to who may go on.
_GO: Final = b"\n"


class Checkpoint(NamedTuple):
    """
    A place to come by, for the service.

    Attributes:
        port: Where the switchboard listens.
        number: Which of its checkpoints this is.
        patience: Seconds after which nobody can still be meant to stay.
    """

    port: int
    number: int
    patience: float

    def reach(self, value: Any = None) -> None:
        """
        Report *value*, which JSON must be able to carry, and stay until the test lets go; from any thread.

        Raises:
            TimeoutError: The test did not let go: most likely it waits for this very thread.
        """
        with socket.create_connection(("127.0.0.1", self.port), self.patience) as connection:
            connection.sendall(self._report(value))
            connection.recv(1)

    async def areach(self, value: Any = None) -> None:
        """Like `reach`, without holding the event loop."""
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
    The test's side of one checkpoint; made by `Switchboard.watch`, safe from any thread.

    Attributes:
        checkpoint: What to hand to the service.
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
        What the next *reports* that come by report, in their order.

        Raises:
            AssertionError: They did not come.
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
        """What was reported and not waited for, without waiting."""
        return [self._values.get() for _ in range(self._values.qsize())]

    def open(self) -> None:
        """Let everybody go on, now and later. Idempotent."""
        with self._lock:
            self._opened = True
            held, self._held = self._held, []
        for connection in held:
            _let_go(connection)

    def arrived(self, connection: socket.socket, value: Any) -> None:
        """Somebody came by; for the switchboard."""
        self._values.put(value)
        with self._lock:
            if not self._opened:
                self._held.append(connection)
                return
        _let_go(connection)


class Switchboard:
    """Listens on the loopback for all checkpoints of one test, in a thread of its own; a context manager."""

    def __init__(self, patience: float) -> None:
        """
        Begin to listen.

        Args:
            patience: Seconds after which something that must happen counts as not happened.
        """
        self._patience = patience
        self._watches: list[Watch] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._port: int = self._listener.getsockname()[1]
        self._closing = False
        self._thread = threading.Thread(target=self._listen, name="switchboard", daemon=True)
        self._thread.start()

    def watch(self, *, held: bool = True) -> Watch:
        """A new checkpoint; if not *held*, whoever comes by reports and goes on at once."""
        watch = Watch(Checkpoint(self._port, len(self._watches), 2 * self._patience), self._patience)
        if not held:
            watch.open()
        self._watches.append(watch)
        return watch

    def _listen(self) -> None:
        for connection in self._connections():
            # What connects is our own and sends its one line at once.
            with connection.makefile("rb") as lines:
                line = lines.readline()
            if line:
                number, value = json.loads(line)
                self._watches[number].arrived(connection, value)
                continue
            connection.close()  # `close` calls, or a process died in the middle of a report
            if self._closing:
                return

    def _connections(self) -> Iterator[socket.socket]:
        while True:
            yield self._listener.accept()[0]

    def open_all(self) -> None:
        """Let everybody go on, now and later."""
        for watch in self._watches:
            watch.open()

    def close(self) -> None:
        """Let everybody go, and stop listening."""
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
    with connection, contextlib.suppress(OSError):  # its coroutine was cancelled, or its process has died
        connection.sendall(_GO)
