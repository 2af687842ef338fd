"""Checks of a replica that must run on its event loop, because what they await lives there."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

__all__ = ["LoopChecks"]


class LoopChecks:
    """
    Runs coroutine functions on a replica's loop, beside the calls there, and waits for their answers elsewhere.

    All methods are safe from any thread but the loop's.
    """

    def __init__(self) -> None:
        """Ask nothing yet."""
        self._lock = threading.Lock()
        self._closed = False  # guarded by _lock, as the next
        self._waiting: set[Future[Any]] = set()  # answers that somebody waits for

    def ask(self, check: Callable[[], Coroutine[Any, Any, Any]], loop: asyncio.AbstractEventLoop) -> Any:
        """
        What *check* returns on *loop*; waits until it has, however long that takes.

        Raises:
            CancelledError: `close` or `end` was called, or the loop has ended (`concurrent.futures.CancelledError`).
            BaseException: What *check* raises.
        """
        import asyncio

        coroutine = _answer(check)
        with self._lock:
            if self._closed:
                coroutine.close()
                raise CancelledError
            try:
                answer = asyncio.run_coroutine_threadsafe(coroutine, loop)
            except RuntimeError:  # the loop was closed
                coroutine.close()
                raise
            self._waiting.add(answer)
        try:
            result, error = answer.result()
        finally:
            with self._lock:
                self._waiting.discard(answer)
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Start no more checks. Comes before the loop ends, so that the loop knows, and then cancels, all it got."""
        with self._lock:
            self._closed = True

    def end(self) -> None:
        """Release those who wait: the loop has ended, or a method blocks it."""
        with self._lock:
            self._closed = True
            waiting = tuple(self._waiting)
        for answer in waiting:
            answer.cancel()


async def _answer(check: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[Any, BaseException | None]:
    import asyncio

    try:
        return await check(), None
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - also sys.exit(), which would end the loop
        return None, error
