"""
A thread that begins something, holds it, and ends it.

Ray's view of the cluster (its nodes, what is free) belongs to the thread that called `ray.init`: once that thread has
ended, each look at it spins for ever.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RuntimeThread"]


class RuntimeThread:
    """A thread in which something begins and ends. Its methods are for any thread."""

    def __init__(self, name: str, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """
        Begin nothing yet.

        Args:
            name: What the thread is called.
            begin: Begins it; blocks until that is done.
            end: Ends it; blocks until that is done.
        """
        self._begin = begin
        self._end = end
        self._begun: Future[None] = Future()
        self._let_go = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it has begun, or is about to, and has not ended yet."""
        return self._thread.is_alive()

    def begin(self, limit: float) -> None:
        """
        Begin it; once.

        Args:
            limit: Longest wait in seconds; what begins later is ended at once.

        Raises:
            TimeoutError: It did not begin in time.
            BaseException: What beginning it raised.
        """
        self._thread.start()
        try:
            self._begun.result(limit)
        except BaseException:  # KeyboardInterrupt too: nobody else knows of it
            self._let_go.set()
            raise

    def end(self, limit: float) -> bool:
        """
        End it. Idempotent.

        Args:
            limit: Longest wait in seconds.

        Returns:
            Whether it has ended.
        """
        self._let_go.set()
        self._thread.join(limit)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._begin()
        except BaseException as error:  # noqa: BLE001 - it is for who waits
            self._begun.set_exception(error)
            return
        self._begun.set_result(None)
        self._let_go.wait()
        self._end()
