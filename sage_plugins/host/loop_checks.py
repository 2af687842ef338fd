"""Checks of a replica that must run on its event loop, because what they await lives there."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeAlias

from sage_plugins.host.steps import Step

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from sage_plugins.host.steps import Hooks

__all__ = ["LoopChecks"]

_Answer: TypeAlias = "tuple[Any, BaseException | None]"


class LoopChecks:
    """
    Asks coroutine functions on a replica's loop, beside the calls there, and waits for their answers elsewhere.

    All methods are safe from any thread but the loop's.
    """

    def __init__(self) -> None:
        """Ask nothing yet."""
        self._ended = False
        self._waiting: dict[Future[Any], asyncio.Task[_Answer] | None] = {}  # those that are not answered yet

    def ask(self, check: Callable[[], Coroutine[Any, Any, Any]], put: Callable[[Step], None]) -> Any:
        """
        What *check* returns; waits until it has, however long that takes.

        Args:
            check: What to ask.
            put: Gives the loop something to do.

        Raises:
            CancelledError: `end` was called, or the loop has ended (`concurrent.futures.CancelledError`).
            BaseException: What *check* raises.
        """
        outcome: Future[Any] = Future()

        def settle(task: asyncio.Task[_Answer]) -> None:
            if task.cancelled() or not outcome.set_running_or_notify_cancel():
                outcome.cancel()
                return
            answer, error = task.result()
            if error is None:
                outcome.set_result(answer)
            else:
                outcome.set_exception(error)

        async def start() -> None:
            import asyncio

            # A task of its own, so that the loop does not wait for it when the replica stops.
            task = self._waiting[outcome] = asyncio.create_task(_answer(check))
            task.add_done_callback(settle)

        def hooks() -> Hooks:
            yield start()

        self._waiting[outcome] = None
        put(Step(hooks, _never))
        if self._ended:  # perhaps too early to be let go by that
            outcome.cancel()
        try:
            return outcome.result()
        finally:
            del self._waiting[outcome]

    def end(self) -> None:
        """Let those who wait go, now and later: the loop has ended, or does not come to them any more."""
        self._ended = True
        for outcome in tuple(self._waiting):
            outcome.cancel()


async def _answer(check: Callable[[], Coroutine[Any, Any, Any]]) -> _Answer:
    import asyncio

    try:
        return await check(), None
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - also sys.exit(), which would end the loop
        return None, error


def _never(coroutine: Coroutine[Any, Any, Any]) -> None:
    coroutine.close()
    raise AssertionError("a check for a loop came to a thread")
