"""Threads that read what comes from replicas, and run what that leads to."""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Dispatcher"]

#: Seconds for a thread to end once it has nothing to do.
_JOIN_S: Final = 1.0


class Dispatcher:
    """
    The threads on which a service's callers read what comes from its replicas, one set for each service.

    The substrate's own thread must not read it: that would have to unpickle, and a wait in it would hold up every other
    answer.
    """

    def __init__(self, name: str) -> None:
        """Prepare; threads start when there is something to do. *name* is the service's."""
        self._name = name
        self._lock = threading.Lock()
        self._queues: dict[str, SimpleQueue[Callable[[], None] | None]] = {}  # by thread; guarded by _lock
        self._threads: list[threading.Thread] = []
        self._closed = False

    def soon(self, do: Callable[[], None]) -> None:
        """Do something quick on the thread of the responses."""
        self._queue("responses").put(do)

    def apart(self, do: Callable[[], None]) -> None:
        """Do something on a thread for which no answer waits."""
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
        """End the threads once they have done what they were given. Idempotent."""
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
        except BaseException:  # one fault must not end all others' answers
            logging.getLogger("sage_plugins").exception("what came from a replica was not read")
        del do  # until the next comes, nothing may be kept alive
