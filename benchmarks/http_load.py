"""
Keeps connections to a server busy, in its own process. `Load` starts the process and controls it.

The process reads lines of JSON, `[port, path, headers, body, answer, connections, requests]`. It answers each with
`[seconds for a request, seconds within which 99 of 100 were answered]`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Load"]


class _Client(asyncio.Protocol):
    """One persistent connection. It sends its next request after the reply to the one before."""

    def __init__(self, request: bytes, answer: bytes, run: _Run) -> None:
        self._request = request
        self._answer = answer
        self._run = run
        self._received = b""
        self._since = 0.0
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Wait for `send`."""
        self._transport = transport

    def send(self) -> None:
        """Send the next request, if one is left."""
        if self._run.left:
            self._run.left -= 1
            self._since = time.perf_counter()
            self._transport.write(self._request)
        else:
            self._transport.close()
            self._run.end_one()

    def data_received(self, data: bytes) -> None:
        """Record the time when the whole reply has arrived."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), None)
        if length is None:  # the reply is chunked, and the last chunk is empty
            if not body.endswith(b"0\r\n\r\n"):
                return
            body = body.split(b"\r\n")[1]
        elif len(body) < int(length[15:]):
            return
        self._run.took.append(time.perf_counter() - self._since)
        if not head.startswith(b"HTTP/1.1 200") or body != self._answer:
            self._run.fail(self._received)
        self._received = b""
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail if the server closed the connection."""
        if error is not None:
            self._run.fail(repr(error).encode())


class _Run:
    """The requests that several connections share."""

    def __init__(self, requests: int, connections: int) -> None:
        self.left = requests
        self.took: list[float] = []
        self._open = connections
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end_one(self) -> None:
        self._open -= 1
        if not self._open:
            self._over.set_result(None)

    def fail(self, received: bytes) -> None:
        if not self._over.done():
            self._over.set_exception(AssertionError(f"unexpected answer: {received!r}"))

    async def until_over(self) -> None:
        await self._over


async def _measure(asked: list[Any]) -> tuple[float, float]:
    port, path, headers, body, answer, connections, requests = asked
    head = {"Host": f"127.0.0.1:{port}", "Content-Type": "application/json", "Content-Length": str(len(body))} | headers
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", body]
    request = "\r\n".join(lines).encode()
    run = _Run(requests, connections)
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda: _Client(request, answer.encode(), run), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    begin = time.perf_counter()
    for client in clients:
        client.send()
    await run.until_over()
    seconds = time.perf_counter() - begin
    return seconds / requests, sorted(run.took)[int(0.99 * requests)]


class Load:
    """A process that puts load on servers."""

    def __init__(self) -> None:
        """Start the process."""
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(
        self, port: int, path: str, headers: Mapping[str, str], *, connections: int, requests: int
    ) -> tuple[float, float]:
        """Return the seconds for a request, and those within which 99 of 100 were answered. It sends `{"value": 1}`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = [port, path, dict(headers), '{"value":1}', "1", connections, requests]
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        each, late = json.loads(self._process.stdout.readline())
        return each, late

    def __enter__(self) -> Self:
        """Return the load itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.communicate()


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(asyncio.run(_measure(json.loads(line)))), flush=True)
