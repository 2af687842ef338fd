"""Runs the threads that read responses of replicas and act on them."""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Dispatcher"]

#: Seconds to wait for a thread to end after its queue is empty.
_JOIN_S: Final = 1.0


class Dispatcher:
    """
    The threads in which a service's callers read responses of its replicas; one set for each service.

    The substrate's own thread must not read responses: unpickling or waiting there would delay all other answers.
    """

    def __init__(self, name: str) -> None:
        """Prepare; threads start when there is work. *name* is the service's name."""
        self._name = name
        self._lock = threading.Lock()
        self._queues: dict[str, SimpleQueue[Callable[[], None] | None]] = {}  # by thread; guarded by _lock
        self._threads: list[threading.Thread] = []
        self._closed = False

    def soon(self, do: Callable[[], None]) -> None:
        """Run *do*, which must be quick, in the thread that reads responses."""
        self._queue("responses").put(do)

    def apart(self, do: Callable[[], None]) -> None:
        """Run *do* in a thread that reads no responses, so that it may take long."""
        self._queue("changes").put(do)

    def _queue(self, kind: str) -> SimpleQueue[Callable[[], None] | None]:
        queue = self._queues.get(kind)
        if queue is None:
            with self._lock:
                queue = self._queues.get(kind)
                if queue is None:
                    queue = SimpleQueue()
                    if not self._closed:
                        thread = threading.Thread(target=_run, args=(queue,), name=f"{self._name}-{kind}", daemon=True)
                        self._threads.append(thread)
                        thread.start()
                    self._queues[kind] = queue
        return queue

    def close(self) -> None:
        """End the threads after they have finished their queued work. Idempotent."""
        with self._lock:
            self._closed = True
            for queue in self._queues.values():
                queue.put(None)
            threads, self._threads = self._threads, []
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_S)


def _run(queue: SimpleQueue[Callable[[], None] | None]) -> None:
    while (do := queue.get()) is not None:
        try:
            do()
        except BaseException:  # one failure must not end the thread that reads all answers
            logging.getLogger("sage_plugins").exception("what came from a replica was not read")
        del do  # keep nothing alive while waiting for the next item
