"""Clients that leave before they are answered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from types import TracebackType

    from starlette.types import Receive

__all__ = ["LOOK_AFTER_S", "UnlessLeft"]

#: Seconds after which somebody looks whether the client is still there. Most calls have been answered by then, and cost
#: no task for that.
LOOK_AFTER_S: Final = 0.02


class UnlessLeft:
    """
    A `with` block that is cancelled if the client leaves meanwhile, and then ends without an error.

    Attributes:
        left: Whether the client has left.
    """

    def __init__(self, receive: Receive) -> None:
        """For the request whose messages *receive* gives; its body has been read."""
        self.left = False
        self._receive = receive
        self._looking: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        """Begin, in the task that is to be cancelled."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task(self._loop)
        self._timer = self._loop.call_later(LOOK_AFTER_S, self._look)
        return self

    def _look(self) -> None:
        self._looking = self._loop.create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        assert self._task is not None  # noqa: S101 - for the type checker: a request is answered by a task
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Look no longer."""
        self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
        if not self.left:
            return False
        assert self._task is not None  # noqa: S101 - as above
        # Somebody else may have cancelled the task, too: that is not for this block to hide.
        return self._task.uncancel() == 0 and kind is asyncio.CancelledError
