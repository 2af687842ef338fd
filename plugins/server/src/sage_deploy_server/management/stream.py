"""`GET /api/v1/stream`: sends changes as server-sent events."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response, StreamingResponse

from sage_deploy_server.web.problems import Problem, response_of, to_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

__all__ = ["Stream"]

_HEADERS: Final = {"Cache-Control": "no-store"}
_MEDIA_TYPE: Final = "text/event-stream"

#: Seconds between two snapshots.
_INTERVAL_S: Final = 1.0

#: Maximum number of viewers at a time.
_MAX_VIEWERS: Final = 64

#: Maximum number of snapshots that wait for a slow viewer. It misses any others.
_MAX_WAITING: Final = 2


class Stream:
    """
    Sends one snapshot each second to all viewers. Without viewers it makes none.

    `answer` runs on the server's event loop. `close` is thread-safe.
    """

    def __init__(self, snapshot: Callable[[int], tuple[dict[str, Any], int]]) -> None:
        """
        Create the stream. Nobody watches yet.

        Args:
            snapshot: Returns the snapshot and the number of its last event. Its argument is the number of the previous
                snapshot's last event. It runs in a thread, because it may ask remote replicas.
        """
        self._take_snapshot = snapshot
        self._viewers: set[asyncio.Queue[bytes | None]] = set()
        self._latest: bytes | None = None  # the last snapshot; None if nobody watches
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sender: asyncio.Task[None] | None = None
        self._closed = False

    async def answer(self, request: Request) -> Response:
        """Serve one viewer. Starts with the latest snapshot if others watch already."""
        if request.method == "HEAD":  # the answer must end: the client's next request waits for that
            return Response(headers=_HEADERS, media_type=_MEDIA_TYPE)
        if len(self._viewers) >= _MAX_VIEWERS or self._closed:
            problem = Problem(503, "stream", f"{_MAX_VIEWERS} watch already, or the server is being closed")
            return response_of(problem, _HEADERS)
        viewer: asyncio.Queue[bytes | None] = asyncio.Queue(_MAX_WAITING)
        if self._latest is not None:
            viewer.put_nowait(self._latest)
        self._viewers.add(viewer)
        self._loop = asyncio.get_running_loop()
        if self._sender is None or self._sender.done():
            self._sender = self._loop.create_task(self._send_snapshots())
        return StreamingResponse(self._snapshots(viewer), headers=_HEADERS, media_type=_MEDIA_TYPE)

    async def _snapshots(self, viewer: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
        try:
            while (snapshot := await viewer.get()) is not None:
                yield snapshot
        finally:
            self._viewers.discard(viewer)

    async def _send_snapshots(self) -> None:
        seq, due = 0, time.monotonic()
        while self._viewers and not self._closed:
            due = max(due + _INTERVAL_S, time.monotonic())  # a steady rate, so that each second is recorded once
            data, seq = await asyncio.to_thread(self._take_snapshot, seq)
            self._latest = message = b"id: %d\ndata: %b\n\n" % (seq, to_json(data))
            for viewer in self._viewers:
                if not viewer.full():
                    viewer.put_nowait(message)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        self._latest = None

    def close(self) -> None:
        """End all streams without waiting for their viewers. Idempotent, thread-safe."""
        first, self._closed = not self._closed, True
        if first and self._loop is not None:
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
        for viewer in self._viewers:
            while viewer.full():
                viewer.get_nowait()
            viewer.put_nowait(None)
