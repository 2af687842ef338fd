"""
Calls that answer with many items: what runs in the replica, and the channel to the consumer in `stream_reader`.

A stream is one call: it waits for a slot, holds it while its generator runs, and is counted once. Items travel through
a `Channel` with room for a few, so that the producer is never far ahead of its consumer.
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

#: Items that a producer may be ahead of its consumer.
AHEAD: Final = 16

#: What `Channel.take` gives if there is no item yet.
NOTHING: Final[Any] = object()


class Channel:
    """
    Items on their way from one producer to one consumer, which may be threads or coroutines.

    Each side announces itself before it looks for the last time and then sleeps; the other side acts first and then
    looks whether somebody is announced. So no item and no room goes unnoticed. Waking who is awake does no harm.

    Attributes:
        closed: Whether nobody wants more. This tells the producer in its own process; `Replica.give_up` tells a replica
            in another one, whose producer has a channel there.
    """

    __slots__ = ("_consumer", "_items", "_producer", "closed")

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._consumer: list[Callable[[], None]] = []  # wakes the one who waits for an item
        self._producer: list[Callable[[], None]] = []  # wakes the one who waits for room
        self.closed = False

    # -- the producer's side -----------------------------------------------------------------------------------------

    def put(self, item: Any) -> bool:
        """Hand over *item* and wait until there is room for another one; False if nobody wants more."""
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
        """The next item, or `NOTHING`."""
        try:
            item = self._items.popleft()
        except IndexError:
            return NOTHING
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
        """Hand over *item*; never waits. `put` and `aput` use it too, so a subclass can send items elsewhere here."""
        self._items.append(item)
        self.wake_consumer()

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

    Its timeout bounds each wait for an item, so it has no deadline of its own, only that of an outer call.
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
        if self.over() or self.give_up(self.cancelled_error(), Outcome.CANCELLED, only_unstarted=True):
            return
        self.channel.close()
        self.cancel_coroutine()

    def cancel_coroutine(self) -> None:
        """End an asynchronous generator at once, wherever it waits."""
        if self.lane is not None:
            self.lane.give_up(self, Outcome.OK, self.owner.clock.monotonic() - self.since)

    def _timeout_text(self, *, started: bool, ended: bool = False) -> str:
        if not started or self.owner.clock.monotonic() >= self.deadline:
            return super()._timeout_text(started=started, ended=ended)
        from sage_plugins.call.endings import no_item_text

        return no_item_text(self, self.item_timeout)


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
