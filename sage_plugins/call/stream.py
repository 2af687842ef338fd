"""
Streams, which are calls with many items: the producer in the replica, and the channel to `stream_reader`.

A stream is one call. It waits for a slot, holds it while its generator runs, and is counted once. Items travel through
a `Channel` with room for a few, so the producer is never far ahead of its consumer.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.call.call import Call
from sage_plugins.call.current import current_call
from sage_plugins.call.lazy_future import closed_lock, open_lock
from sage_plugins.values import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

__all__ = ["AHEAD", "NOTHING", "Channel", "StreamCall", "produce", "produce_async"]

#: Number of items that a producer may be ahead of its consumer.
AHEAD: Final = 16

#: `Channel.take` returns it if there is no item yet.
NOTHING: Final[Any] = object()


class Channel:
    """
    A queue of items from one producer to one consumer; each may be a thread or a coroutine.

    Before it sleeps, each side registers a wake function and checks once more. The other side acts first and then wakes
    what is registered. So neither misses an item or free room. A wake without a sleeper does no harm.

    Attributes:
        closed: Whether the consumer wants no more items. A producer in this process reads it. A producer in another
            process has its own channel there, and learns it through `Replica.give_up`.
    """

    __slots__ = ("_consumer", "_items", "_producer", "closed")

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._consumer: list[Callable[[], None]] = []  # wakes the consumer that waits for an item
        self._producer: list[Callable[[], None]] = []  # wakes the producer that waits for room
        self.closed = False

    # -- the producer's side -----------------------------------------------------------------------------------------

    def put(self, item: Any) -> bool:
        """Hand over *item* and wait for room for another one; False if the consumer wants no more."""
        self.deliver(item)
        while self._full():
            latch = closed_lock()
            self._producer.append(partial(open_lock, latch))
            if self._full():
                latch.acquire()
        return not self.closed

    async def aput(self, item: Any) -> bool:
        """`put` for coroutines."""
        from sage_plugins.call.aio import wake_up

        self.deliver(item)
        while self._full():
            woken, wake = wake_up()
            self._producer.append(wake)
            if self._full():
                await woken
        return not self.closed

    def _full(self) -> bool:
        return not self.closed and len(self._items) >= AHEAD

    # -- the consumer's side -----------------------------------------------------------------------------------------

    def take(self) -> Any:
        """Return the next item, or `NOTHING`."""
        try:
            item = self._items.popleft()
        except IndexError:
            return NOTHING
        # Wake the producer when half of the room is free, not for each item.
        if self._producer and len(self._items) <= AHEAD // 2:
            _wake(self._producer)
        return item

    def announce(self, wake: Callable[[], None]) -> None:
        """Call *wake* once there is an item. Check again after this, before you sleep."""
        self._consumer.append(wake)

    def wake_consumer(self) -> None:
        """Wake the consumer: there is an item, or there will be none any more."""
        if self._consumer:
            _wake(self._consumer)

    def close(self) -> None:
        """Accept no more items: the producer ends when it next hands one over."""
        self.closed = True
        _wake(self._producer)

    # -- for a producer in another process, which applies `AHEAD` itself ------------------------------------------

    def deliver(self, item: Any) -> None:
        """Hand over *item* without waiting. `put` and `aput` use it, so a subclass can override it to send items."""
        self._items.append(item)
        self.wake_consumer()

    def on_room(self, wake: Callable[[], None]) -> None:
        """Call *wake* once, from any thread, when half of the room is free or the consumer wants no more."""
        self._producer.append(wake)
        if self.closed:
            _wake(self._producer)

    @property
    def waiting(self) -> int:
        """Number of items that were not taken yet."""
        return len(self._items)


def _wake(sleepers: list[Callable[[], None]]) -> None:
    """Call all registered wake functions; `pop` is atomic, so each is called once."""
    while sleepers:
        try:
            wake = sleepers.pop()
        except IndexError:  # another thread took the last one
            return
        wake()


class StreamCall(Call):
    """
    The call behind a stream; it is over when its generator has ended.

    Its timeout limits each wait for an item. So it has no deadline of its own, only that of an outer call.
    """

    __slots__ = ("channel", "item_timeout")

    def __init__(self, *fields: Any, item_timeout: float) -> None:
        """
        Make the call of a stream.

        Args:
            fields: As for `Call`.
            item_timeout: Longest wait of its consumer for an item, in seconds; inf for no limit.
        """
        super().__init__(*fields)
        self.channel = Channel()
        self.item_timeout = item_timeout

    def publish(self, result: Any, error: BaseException | None = None) -> None:
        """As `Call.publish`; also closes the channel, so the producer ends."""
        super().publish(result, error)
        self.channel.close()

    def expire_item(self, waited: float) -> None:
        """End the stream if its consumer has *waited* too long for an item, or if a deadline has passed."""
        if not self.expire() and waited >= self.item_timeout:
            self.give_up(self.timeout_error(), Outcome.TIMEOUT)

    def stop_producing(self) -> None:
        """End the stream from the consumer's side, for example after `break`; this is not a failure."""
        if self.over() or self.give_up(self.cancelled_error(), Outcome.CANCELLED, only_unstarted=True):
            return
        self.channel.close()
        self.cancel_coroutine()

    def cancel_coroutine(self) -> None:
        """Cancel an asynchronous generator at once, even while it waits."""
        if self.lane is not None:
            self.lane.give_up(self, Outcome.OK, self.owner.clock.monotonic() - self.since)

    def _timeout_text(self, *, started: bool, ended: bool = False) -> str:
        if not started or self.owner.clock.monotonic() >= self.deadline:
            return super()._timeout_text(started=started, ended=ended)
        from sage_plugins.call.endings import no_item_text

        return no_item_text(self, self.item_timeout)


# -- in the replica ----------------------------------------------------------------------------------------------------


def produce(items: Generator[Any, Any, Any]) -> None:
    """Run the generator of the current call, until it ends or the consumer wants no more."""
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
    assert isinstance(call, StreamCall)  # noqa: S101 - for the type checker: handles make such a call for a generator
    return call.channel
