"""
Calls that answer with many items: the producer runs in the replica, the consumer takes what it has made so far.

A stream is one call: it waits for a slot, holds it while its generator runs, and is counted once. Items travel through
a `Channel` with room for a few, so that the producer is never far ahead of its consumer.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.call.call import MAX_WAIT_S, Call, closed_lock, current_call, open_lock
from sage_plugins.errors import ServiceStoppedError
from sage_plugins.values import Outcome

if TYPE_CHECKING:
    import threading
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from types import TracebackType
    from typing import Self

__all__ = ["AHEAD", "AsyncServiceStream", "Channel", "ServiceStream", "StreamCall", "produce", "produce_async"]

#: Items that a producer may be ahead of its consumer.
AHEAD: Final = 16

_NOTHING: Final[Any] = object()


class Channel:
    """
    Items on their way from one producer to one consumer, which may be threads or coroutines.

    Each side announces itself before it looks for the last time and then sleeps; the other side acts first and then
    looks whether somebody is announced. So no item and no room goes unnoticed. Waking who is awake does no harm.
    """

    __slots__ = ("_consumer", "_items", "_producer", "closed")

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._consumer: list[Callable[[], None]] = []  # wakes the one who waits for an item
        self._producer: list[Callable[[], None]] = []  # wakes the one who waits for room
        self.closed = False  # whether nobody wants more

    # -- the producer's side -----------------------------------------------------------------------------------------

    def put(self, item: Any) -> bool:
        """Hand over *item* and wait until there is room for another one; False if nobody wants more."""
        self.append(item)
        while self._full():
            latch = closed_lock()
            self._producer.append(partial(open_lock, latch))
            if self._full():
                latch.acquire()
        return not self.closed

    async def aput(self, item: Any) -> bool:
        """`put` for coroutines."""
        from sage_plugins.call.aio import wake_up

        self.append(item)
        while self._full():
            woken, wake = wake_up()
            self._producer.append(wake)
            if self._full():
                await woken
        return not self.closed

    def append(self, item: Any) -> None:
        """Keep *item* for the consumer. A subclass whose consumer is in another process sends it there instead."""
        self._items.append(item)
        self.wake_consumer()

    def _full(self) -> bool:
        return not self.closed and len(self._items) >= AHEAD

    # -- the consumer's side -----------------------------------------------------------------------------------------

    def take(self) -> Any:
        """The next item, or `_NOTHING`."""
        try:
            item = self._items.popleft()
        except IndexError:
            return _NOTHING
        # Woken when half of the room is free, not for each item.
        if self._producer and len(self._items) <= AHEAD // 2:
            _wake(self._producer)
        return item

    def announce(self, wake: Callable[[], None]) -> None:
        """Have *wake* called once there is an item; look again after this, before you sleep."""
        self._consumer.append(wake)

    def wake_consumer(self) -> None:
        """There is an item, or there will be none any more."""
        if self._consumer:
            _wake(self._consumer)

    def close(self) -> None:
        """Nobody wants more: the producer ends when it next hands over an item."""
        self.closed = True
        _wake(self._producer)

    # -- for a producer that is elsewhere and minds `AHEAD` itself ------------------------------------------------

    def deliver(self, item: Any) -> None:
        """Hand over *item*; never waits."""
        self.append(item)

    def on_room(self, wake: Callable[[], None]) -> None:
        """Have *wake* called once, from any thread, when half of the room is free or nobody wants more."""
        self._producer.append(wake)
        if self.closed:
            _wake(self._producer)

    @property
    def waiting(self) -> int:
        """Items that were not taken yet."""
        return len(self._items)


def _wake(sleepers: list[Callable[[], None]]) -> None:
    """Wake everybody who is announced; taking one is one step of the interpreter, so each is woken once."""
    while sleepers:
        try:
            wake = sleepers.pop()
        except IndexError:  # another thread took the last one
            return
        wake()


class StreamCall(Call):
    """
    The call behind a stream: over when its generator has ended.

    Its time-out bounds each wait for an item, so it has no deadline of its own, only that of an outer call.
    """

    __slots__ = ("channel", "item_timeout")

    def __init__(self, *fields: Any, item_timeout: float) -> None:
        """
        Make the call of a stream.

        Args:
            fields: As for `Call`.
            item_timeout: Seconds that its consumer waits for an item; inf for no limit.
        """
        super().__init__(*fields)
        self.channel = Channel()
        self.item_timeout = item_timeout

    def publish(self, result: Any, error: BaseException | None = None) -> None:
        """As `Call.publish`; however it ended, nobody wants more of the producer."""
        super().publish(result, error)
        self.channel.close()

    def expire_item(self, waited: float) -> None:
        """End the stream if its consumer has *waited* too long for an item, or if a deadline has passed."""
        if not self.expire() and waited >= self.item_timeout:
            self.give_up(self.timeout_error(), Outcome.TIMEOUT)

    def stop_producing(self) -> None:
        """End the stream from the consumer's side, as `break` does: that is no failure."""
        if self.over() or self.give_up(self._cancelled_error(), Outcome.CANCELLED, only_unstarted=True):
            return
        self.channel.close()
        self.cancel_coroutine()

    def cancel_coroutine(self) -> None:
        """End an asynchronous generator at once, wherever it waits."""
        if self.lane is not None:
            self.lane.cancel(self)

    def _timeout_text(self, *, started: bool, ended: bool = False) -> str:
        if not started or self.owner.clock.monotonic() >= self.deadline:
            return super()._timeout_text(started=started, ended=ended)
        where = "" if self.lane is None else f" (replica {self.lane.id})"
        return (
            f"{self.owner.service}.{self.method.name} gave no item for {self.item_timeout:.4g} s{where}; its generator "
            "is ended when it next gives one. Raise `timeout` or make it give items sooner"
        )


# -- in the replica ----------------------------------------------------------------------------------------------------


def produce(items: Generator[Any, Any, Any]) -> None:
    """Run a generator for the call that is being answered, until it ends or nobody wants more."""
    channel = _channel()
    try:
        if channel.closed:
            return
        for item in items:
            if not channel.put(item):
                break
    finally:
        items.close()


async def produce_async(items: AsyncGenerator[Any, Any]) -> None:
    """`produce` for asynchronous generators."""
    from asyncio import CancelledError

    channel = _channel()
    try:
        if channel.closed:
            return
        async for item in items:
            if not await channel.aput(item):
                break
    except CancelledError:
        if not channel.closed:
            raise
    finally:
        await items.aclose()


def _channel() -> Channel:
    call = current_call()
    assert isinstance(call, StreamCall)  # noqa: S101 - for the type checker: handles make no other for a generator
    return call.channel


# -- at the caller's ---------------------------------------------------------------------------------------------------


class _Consumer:
    """What both kinds of streams share."""

    def __init__(self) -> None:
        self._call: StreamCall | None = None
        self._closed = False

    def _begin(self, call: StreamCall) -> StreamCall:
        """Read what *call* produces from now on."""
        self._call = call
        self._closed = False
        call.on_over(_wake_consumer)
        return call

    def close(self) -> None:
        """
        End the stream: the generator is closed when it next gives an item, a coroutine at once. Idempotent.

        Dropping the stream does the same.
        """
        self._closed = True
        if self._call is not None:
            self._call.stop_producing()
            self._call.channel.wake_consumer()

    def __del__(self) -> None:
        """Nobody reads on: the producer must not wait for ever."""
        # Not `close`: this may run at any moment, also while this very thread is inside the router.
        if self._call is not None and not self._call.over():
            self._call.channel.close()
            self._call.cancel_coroutine()

    def _take(self, call: StreamCall) -> Any:
        """The next item, `_NOTHING` if there is none yet; raises the call's error and, after the last, `_EndError`."""
        if self._closed:
            raise _EndError
        item = call.channel.take()
        if item is not _NOTHING:
            return item
        if call.over():
            item = call.channel.take()  # what was given between the two looks
            if item is not _NOTHING:
                return item
            self._closed = True
            error = call.exception_now()
            if error is not None:
                raise error
            raise _EndError
        return _NOTHING

    def _until(self, call: StreamCall, since: float) -> float:
        """When to give up on the item awaited since *since*: the start has a limit of its own."""
        until = min(since + call.item_timeout, call.deadline)
        return min(until, call.expires) if call.unstarted() else until


class _EndError(Exception):
    """The stream has ended well."""


class ServiceStream(_Consumer):
    """
    The items of a generator method, as an iterator and a context manager; made by `ServiceHandle.stream`.

    For one thread at a time. Raises, in place of an item, what the generator raises, and CallTimeoutError when an item
    takes longer than the time-out.
    """

    def __init__(self, call: StreamCall, again: Callable[[StreamCall, ServiceStoppedError], StreamCall]) -> None:
        """
        Read what *call* produces.

        Args:
            call: Is on its way.
            again: Makes a call that ended with ServiceStoppedError once more, or raises that error.
        """
        super().__init__()
        self._again = again
        self._begin(call)

    def __iter__(self) -> Self:
        """The stream itself."""
        return self

    def __next__(self) -> Any:
        """The next item."""
        call = self._call
        assert call is not None  # noqa: S101 - for the type checker
        since = None
        try:
            while True:
                item = self._take(call)
                if item is not _NOTHING:
                    return item
                monotonic = call.owner.clock.monotonic
                if since is None:
                    since = monotonic() if call.running() else call.since
                latch = closed_lock()
                call.channel.announce(partial(open_lock, latch))
                item = self._take(call)
                if item is not _NOTHING:
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
            return next(self)
        except BaseException:  # also KeyboardInterrupt while waiting: the consumer is gone
            self.close()
            raise

    def __enter__(self) -> Self:
        """The stream itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


class AsyncServiceStream(_Consumer):
    """
    The items of a generator method, as an asynchronous iterator and context manager; made by `ServiceHandle.astream`.

    Works on any event loop, for one task at a time; raises what `ServiceStream` raises. The call is made when the first
    item is asked for.
    """

    def __init__(
        self,
        start: Callable[[], Awaitable[StreamCall]],
        again: Callable[[StreamCall, ServiceStoppedError], Awaitable[StreamCall]],
    ) -> None:
        """
        Read what the call produces that *start* makes.

        Args:
            start: Makes the call.
            again: Makes a call that ended with ServiceStoppedError once more, or raises that error.
        """
        super().__init__()
        self._start = start
        self._again = again

    def __aiter__(self) -> Self:
        """The stream itself."""
        return self

    async def __anext__(self) -> Any:
        """The next item."""
        from sage_plugins.call.aio import wait_until, wake_up

        if self._closed:
            raise StopAsyncIteration
        call = self._call or self._begin(await self._start())
        since = None
        try:
            while True:
                item = self._take(call)
                if item is not _NOTHING:
                    return item
                monotonic = call.owner.clock.monotonic
                if since is None:
                    since = monotonic() if call.running() else call.since
                woken, wake = wake_up()
                call.channel.announce(wake)
                item = self._take(call)
                if item is not _NOTHING:
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
            return await anext(self)
        except BaseException:  # also cancellation: the consumer is gone
            self.close()
            raise

    async def aclose(self) -> None:
        """Like `close`, under the name that `contextlib.aclosing` looks for."""
        self.close()

    async def __aenter__(self) -> Self:
        """The stream itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def _wait_inside(call: StreamCall, latch: threading.Lock, seconds: float) -> None:
    """Wait for *latch*; a method that reads a stream may be what the stream waits for."""
    waiter = current_call()
    if waiter is None:
        latch.acquire(timeout=seconds)
        return
    call.owner.guard(call, waiter)
    try:
        latch.acquire(timeout=seconds)
    finally:
        call.owner.went_on(waiter)


def _wake_consumer(call: Any) -> None:
    call.channel.wake_consumer()
