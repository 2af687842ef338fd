"""`GET /api/v1/stream`: sends changes as server-sent events."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import StreamingResponse

from sage_deploy_server.web.problems import Problem, response_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["Stream"]

#: Seconds between two snapshots.
_EVERY_S: Final = 1.0

#: Maximum number of viewers at a time.
_VIEWERS: Final = 64

#: Maximum number of snapshots that wait for a slow viewer. It misses any others.
_WAITING: Final = 2


class Stream:
    """
    Sends one snapshot each second to all viewers. Without viewers it makes none.

    `answer` runs on the server's event loop. `close` is thread-safe.
    """

    def __init__(self, picture: Callable[[int], tuple[dict[str, Any], int]]) -> None:
        """
        Create the stream. Nobody watches yet.

        Args:
            picture: Returns the snapshot and the number of its last event. Its argument is the number of the previous
                snapshot's last event. It runs in a thread, because it may ask remote replicas.
        """
        self._picture = picture
        self._viewers: set[asyncio.Queue[bytes | None]] = set()
        self._latest: bytes | None = None  # the last snapshot; None if nobody watches
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drawing: asyncio.Task[None] | None = None
        self._closed = False

    async def answer(self, _: Request) -> Response:
        """Serve one viewer. Starts with the latest snapshot if others watch already."""
        if len(self._viewers) >= _VIEWERS or self._closed:
            problem = Problem(503, "stream", f"{_VIEWERS} watch already, or the server is being closed")
            return response_of(problem, {"Cache-Control": "no-store"})
        viewer: asyncio.Queue[bytes | None] = asyncio.Queue(_WAITING)
        if self._latest is not None:
            viewer.put_nowait(self._latest)
        self._viewers.add(viewer)
        self._loop = asyncio.get_running_loop()
        if self._drawing is None or self._drawing.done():
            self._drawing = self._loop.create_task(self._draw())
        return StreamingResponse(
            self._pictures(viewer), headers={"Cache-Control": "no-store"}, media_type="text/event-stream"
        )

    async def _pictures(self, viewer: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
        try:
            while (picture := await viewer.get()) is not None:
                yield picture
        finally:
            self._viewers.discard(viewer)

    async def _draw(self) -> None:
        seq, due = 0, time.monotonic()
        while self._viewers and not self._closed:
            due = max(due + _EVERY_S, time.monotonic())  # a steady rate, so that each second is recorded once
            shown, seq = await asyncio.to_thread(self._picture, seq)
            self._latest = data = b"id: %d\ndata: %b\n\n" % (seq, msgspec.json.encode(shown, enc_hook=str))
            for viewer in self._viewers:
                if not viewer.full():
                    viewer.put_nowait(data)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        self._latest = None

    def close(self) -> None:
        """End all streams without waiting for their viewers. Idempotent, thread-safe."""
        first, self._closed = not self._closed, True
        if first and self._loop is not None:
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if self._drawing is not None:
            self._drawing.cancel()
        for viewer in self._viewers:
            while viewer.full():
                viewer.get_nowait()
            viewer.put_nowait(None)
