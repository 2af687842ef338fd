"""The caller's side of a stream: iterators that take the items from the producer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from sage_plugins.call import deadlock
from sage_plugins.call.current import current_call
from sage_plugins.call.lazy_future import closed_lock, open_lock
from sage_plugins.call.stream import NOTHING
from sage_plugins.clock import MAX_WAIT_S
from sage_plugins.errors import ServiceStoppedError

if TYPE_CHECKING:
    import threading
    from collections.abc import Awaitable, Callable
    from types import TracebackType
    from typing import Self

    from sage_plugins.call.stream import StreamCall

__all__ = ["AsyncServiceStream", "ServiceStream"]


class _Consumer:
    """The part that both kinds of streams share."""

    def __init__(self) -> None:
        self._call: StreamCall | None = None
        self._closed = False

    def _begin(self, call: StreamCall) -> StreamCall:
        """Read the items of *call* from now on."""
        self._call = call
        self._closed = False
        call.on_over(_wake_consumer)
        return call

    def close(self) -> None:
        """
        End the stream: a plain generator when it next yields an item, an asynchronous one at once. Idempotent.

        Dropping the stream does the same.
        """
        self._closed = True
        if self._call is not None:
            self._call.stop_producing()
            self._call.channel.wake_consumer()

    def __del__(self) -> None:
        """End a stream that was dropped, so that its producer does not wait forever."""
        # Not `close`: this may run at any moment, even while this thread is inside the router.
        if self._call is not None and not self._call.over():
            self._call.channel.close()
            self._call.cancel_coroutine()

    def _take(self, call: StreamCall) -> Any:
        """Return the next item, or `NOTHING` if none is there yet; at the end raise the call's error or `_EndError`."""
        if self._closed:
            raise _EndError
        item = call.channel.take()
        if item is not NOTHING:
            return item
        if call.over():
            item = call.channel.take()  # an item may have come since the first `take`
            if item is not NOTHING:
                return item
            self._closed = True
            error = call.exception_now()
            if error is not None:
                raise error
            raise _EndError
        return NOTHING

    def _until(self, call: StreamCall, since: float) -> float:
        """Return when a wait for an item that began at *since* ends; before the start, `expires` applies too."""
        until = min(since + call.item_timeout, call.deadline)
        return min(until, call.expires) if call.unstarted() else until


class _EndError(Exception):
    """The stream has ended without an error."""


class ServiceStream(_Consumer):
    """
    The items of a generator method, as an iterator and a context manager; made by `ServiceHandle.stream`.

    For one thread at a time. Instead of an item it raises what the generator raises, or CallTimeoutError if an item
    takes longer than the timeout.
    """

    def __init__(self, call: StreamCall, again: Callable[[StreamCall, ServiceStoppedError], StreamCall]) -> None:
        """
        Read the items of *call*.

        Args:
            call: The call of the stream, already sent.
            again: Repeats a call that ended with ServiceStoppedError, or raises that error.
        """
        super().__init__()
        self._again = again
        self._begin(call)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        call = self._call
        assert call is not None  # noqa: S101 - for the type checker
        since = None
        try:
            while True:
                item = self._take(call)
                if item is not NOTHING:
                    return item
                monotonic = call.owner.clock.monotonic
                if since is None:
                    since = monotonic() if call.running() else call.since
                latch = closed_lock()
                call.channel.announce(partial(open_lock, latch))
                item = self._take(call)
                if item is not NOTHING:
                    return item
                now = monotonic()
                remaining = self._until(call, since) - now
                if remaining <= 0:
                    call.expire_item(now - since)
                else:
                    _wait_inside(call, latch, min(remaining, MAX_WAIT_S))
        except _EndError:
            raise StopIteration from None
        except ServiceStoppedError as error:
            self._begin(self._again(call, error))
        except BaseException:  # also KeyboardInterrupt while waiting: the reader has stopped
            self.close()
            raise
        return next(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncServiceStream(_Consumer):
    """
    The items of a generator method, as an asynchronous iterator and context manager; made by `ServiceHandle.astream`.

    Works on any event loop, for one task at a time; raises what `ServiceStream` raises. It makes the call when it is
    asked for the first item.
    """

    def __init__(
        self,
        start: Callable[[], Awaitable[StreamCall]],
        again: Callable[[StreamCall, ServiceStoppedError], Awaitable[StreamCall]],
    ) -> None:
        """Read the items of the call that *start* makes. *again* is as for `ServiceStream`."""
        super().__init__()
        self._start = start
        self._again = again

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        from sage_plugins.call.aio import wait_until, wake_up

        if self._closed:
            raise StopAsyncIteration
        call = self._call or self._begin(await self._start())
        since = None
        try:
            while True:
                item = self._take(call)
                if item is not NOTHING:
                    return item
                monotonic = call.owner.clock.monotonic
                if since is None:
                    since = monotonic() if call.running() else call.since
                woken, wake = wake_up()
                call.channel.announce(wake)
                item = self._take(call)
                if item is not NOTHING:
                    return item
                now = monotonic()
                remaining = self._until(call, since) - now
                if remaining <= 0:
                    call.expire_item(now - since)
                else:
                    await wait_until(woken, remaining)
        except _EndError:
            raise StopAsyncIteration from None
        except ServiceStoppedError as error:
            self._begin(await self._again(call, error))
        except BaseException:  # also cancellation: the reader has stopped
            self.close()
            raise
        return await anext(self)

    async def aclose(self) -> None:
        """Like `close`, under the name that `contextlib.aclosing` looks for."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _wait_inside(call: StreamCall, latch: threading.Lock, seconds: float) -> None:
    """Wait for *latch*; check for a deadlock if a service method reads the stream."""
    waiter = current_call()
    if waiter is None:
        latch.acquire(timeout=seconds)
        return
    deadlock.guard(call, waiter)
    try:
        latch.acquire(timeout=seconds)
    finally:
        deadlock.went_on(waiter)


def _wake_consumer(call: Any) -> None:
    call.channel.wake_consumer()
