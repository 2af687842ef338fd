"""The caller's end of a stream whose producer is in a replica."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from sage_deploy_remote.link import protocol
from sage_deploy_remote.link.drain_queue import DrainQueue
from sage_deploy_remote.payloads.payload import is_quick
from sage_deploy_remote.payloads.reading import read
from sage_plugins.threads import CALLBACKS
from sage_plugins.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_deploy_remote.link.protocol import Notice
    from sage_plugins.call.stream import StreamCall

__all__ = ["IncomingStream"]


class IncomingStream:
    """
    Reads a stream whose producer is in a replica. Items that came wait in the call's channel for the consumer.

    Attributes:
        has_ended: Whether the producer has ended, or was told to end.
    """

    def __init__(
        self,
        notify: Callable[[Notice], None],
        run_quick: Callable[[Callable[[], None]], None],
        call: StreamCall,
        number: int,
    ) -> None:
        self.has_ended = False
        self._notify = notify
        self._run_quick = run_quick
        self._call = call
        self._number = number
        self._delivered = 0
        self._acknowledged = 0  # guarded by _lock
        self._lock = threading.Lock()
        self._listening = False
        # Steps for items that are not plain data, and for everything that came after them.
        self._arrivals = DrainQueue()
        self._listen()

    def _listen(self) -> None:
        if not self._listening:
            self._listening = True
            self._call.channel.on_room(self._read_on)

    def deliver(self, packed: Any) -> None:
        """Take the next item; for one thread at a time."""
        if is_quick(packed) and self.idle:
            self._deliver(packed)
        else:
            self.run_after_items(partial(self._deliver, packed))

    @property
    def idle(self) -> bool:
        """Whether all items that came were delivered."""
        return self._arrivals.idle

    def run_after_items(self, do: Callable[[], None]) -> None:
        """Run *do* in a separate thread after everything that has come was delivered."""
        self._arrivals.items.append(do)
        CALLBACKS.run(partial(self._arrivals.drain, self._do_next))

    def _do_next(self) -> None:
        if self._arrivals.items:  # else the thread before this one took the last step
            self._arrivals.items.popleft()()

    def _deliver(self, packed: Any) -> None:
        item, error = read(packed, self._call.owner.service, self._call.method.name)
        if error is not None:
            self._call.give_up(error, Outcome.ERROR)
            return
        self._delivered += 1
        self._listen()  # first: the consumer may read this item at once and then wait
        self._call.channel.deliver(item)

    def _read_on(self) -> None:
        """Handle that the consumer has read some items, or has stopped reading."""
        self._listening = False
        if self._call.channel.closed:
            self.close()
        elif not self.has_ended and not self._acknowledge():
            # More items came while this counted as listening. Listen again in another thread: the channel wakes
            # listeners in a loop until none is left, and that loop would not end.
            self._run_quick(self._listen_again)

    def _listen_again(self) -> None:
        self._listen()
        self._acknowledge()  # for items that were read before `_listen`

    def _acknowledge(self) -> bool:
        """
        Acknowledge the items read since the last time.

        Return False if there are none. Then the producer may wait, and must not wait forever.
        """
        with self._lock:  # producer and consumer may call this at the same time
            number = self._delivered - self._call.channel.waiting - self._acknowledged
            if number > 0:
                self._acknowledged += number
        if number > 0:
            self._notify((protocol.ACK, self._number, number))
        return number > 0

    def close(self) -> None:
        """Tell the producer to end."""
        if not self.has_ended:
            self.has_ended = True
            self._notify((protocol.CLOSE, self._number))
