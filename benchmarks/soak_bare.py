"""The calls of `soak.py` without sage-deploy, in a pool of threads: shows what Python and the C library keep alone."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from sage_plugins.errors import CallTimeoutError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = ["BareHandle"]


class BareHandle:
    """What `soak.Caller` uses of a `ServiceHandle`, with the methods of *instance* run by *threads* threads."""

    def __init__(self, instance: Any, threads: int = 3) -> None:
        """Begin without calls."""
        self._instance = instance
        self._pool = ThreadPoolExecutor(threads)
        self._timeout: float | None = None

    def with_options(self, *, timeout: float | None = None, **_: Any) -> BareHandle:
        """The same pool with a timeout."""
        other = object.__new__(BareHandle)
        other._instance, other._pool, other._timeout = self._instance, self._pool, timeout
        return other

    def submit(self, method: str, *args: Any) -> Future[Any]:
        """As `ServiceHandle.submit`."""
        return self._pool.submit(getattr(self._instance, method), *args)

    def call(self, method: str, *args: Any) -> Any:
        """As `ServiceHandle.call`."""
        try:
            return self.submit(method, *args).result(self._timeout)
        except TimeoutError:
            msg = f"{method} has run longer than {self._timeout} s"
            raise CallTimeoutError(msg) from None

    async def acall(self, method: str, *args: Any) -> Any:
        """As `ServiceHandle.acall`."""
        return await asyncio.wrap_future(self.submit(method, *args))

    def stream(self, method: str, *args: Any) -> Iterator[Any]:
        """As `ServiceHandle.stream`."""
        yield from self.call(method, *args)

    async def astream(self, method: str, *args: Any) -> AsyncIterator[Any]:
        """As `ServiceHandle.astream`."""
        for each in await self.acall(method, *args):
            yield each
