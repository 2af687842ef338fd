"""
A thread that begins something, keeps it, and ends it.

Ray ties its view of the cluster (nodes, free resources) to the thread that called `ray.init`. Once that thread has
ended, every access to the view spins forever.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RuntimeThread"]


class RuntimeThread:
    """A thread that begins and ends something. Its methods may be called from any thread."""

    def __init__(self, name: str, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """
        Prepare the thread. Begins nothing yet.

        Args:
            name: The thread's name.
            begin: Begins it. Blocks until it has begun.
            end: Ends it. Blocks until it has ended.
        """
        self._begin = begin
        self._end = end
        self._begun: Future[None] = Future()
        self._end_requested = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs: it has begun or will begin, and has not ended."""
        return self._thread.is_alive()

    def begin(self, limit: float) -> None:
        """
        Begin it. Call this once.

        Args:
            limit: Timeout in seconds. If it begins after that, it is ended at once.

        Raises:
            TimeoutError: It did not begin in time.
            BaseException: The error of *begin*.
        """
        self._thread.start()
        try:
            self._begun.result(limit)
        except BaseException:  # also for KeyboardInterrupt: nobody else can end it
            self._end_requested.set()
            raise

    def end(self, limit: float) -> bool:
        """
        End it. Idempotent.

        Args:
            limit: Timeout in seconds.

        Returns:
            Whether it has ended.
        """
        self._end_requested.set()
        self._thread.join(limit)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._begin()
        except BaseException as error:  # noqa: BLE001 - `begin` raises it in the waiting thread
            self._begun.set_exception(error)
            return
        self._begun.set_result(None)
        self._end_requested.wait()
        self._end()
