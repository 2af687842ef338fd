"""The kinds of load that several benchmarks share."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from rounds import per_call

from sage_plugins.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Callers", "Note", "from_threads", "gather"]


def gather(submit: Callable[..., Any], *first: Any, number: int = 20_000) -> float:
    """Return the seconds for each of *number* calls that are all submitted before the first result is read."""

    def run() -> None:
        futures = [submit(*first, value) for value in range(number)]
        for future in futures:
            future.result()

    return per_call(run, 1) / number


def from_threads(call: Callable[[], Any], *, threads: int = 8, number: int = 1_500) -> float:
    """Return the seconds for each call when *threads* threads make *number* calls each, one after the other."""
    barrier = threading.Barrier(threads + 1)

    def body() -> None:
        barrier.wait()
        for _ in range(number):
            call()
        barrier.wait()

    for _ in range(threads):
        threading.Thread(target=body, daemon=True).start()

    def run() -> None:
        barrier.wait()
        barrier.wait()

    return per_call(run, 1) / (threads * number)


class Note(NamedTuple):
    """
    A call that was made.

    Attributes:
        kind: Name of its kind.
        began: When it was made, by `time.perf_counter`.
        ended: When its caller continued.
        error: Class of its error. Empty if it was answered.
    """

    kind: str
    began: float
    ended: float
    error: str


class Callers:
    """
    Threads that make calls until `end`.

    Attributes:
        notes: The calls that have ended so far.
    """

    def __init__(self, calls: Iterable[tuple[str, Callable[[], Any]]], every: float = 0.0) -> None:
        """
        Start the threads.

        Args:
            calls: For each thread: its kind, and the function that it calls repeatedly.
            every: Minimum seconds between the starts of two calls of a thread.
        """
        self._stop = threading.Event()
        self._every = every
        self.notes: list[Note] = []
        self._threads = [threading.Thread(target=self._go_on, args=each, daemon=True) for each in calls]
        for thread in self._threads:
            thread.start()

    def _go_on(self, kind: str, call: Callable[[], Any]) -> None:
        while not self._stop.is_set():
            began, error = time.perf_counter(), ""
            try:
                call()
            except CallError as found:
                error = type(found).__name__
            ended = time.perf_counter()
            self.notes.append(Note(kind, began, ended, error))
            if ended < began + self._every:
                self._stop.wait(began + self._every - ended)

    def end(self) -> None:
        """Let the threads finish their calls, and wait for them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
