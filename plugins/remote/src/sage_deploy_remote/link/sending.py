"""What leaves for a replica: calls and notices, gathered into frames."""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_remote.link.deferred_signals import DeferredSignals
from sage_deploy_remote.link.drain_queue import DrainQueue
from sage_deploy_remote.link.outstanding import SentUnit, remember
from sage_deploy_remote.link.protocol import CallItem, Frame, Unit
from sage_deploy_remote.link.stream_reading import StreamReading
from sage_deploy_remote.payloads.packing import is_plain, pack_arguments
from sage_deploy_remote.payloads.payload import is_quick
from sage_plugins.call.batch import Batch
from sage_plugins.call.call import Call
from sage_plugins.call.current import leaving_with
from sage_plugins.call.stream import StreamCall
from sage_plugins.errors import InvalidKeyError
from sage_plugins.host.lifecycle import CANARY
from sage_plugins.threads import CALLBACKS
from sage_plugins.values import CallOptions, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sage_deploy_remote.link.outstanding import Outstanding
    from sage_deploy_remote.link.protocol import Notice
    from sage_deploy_remote.link.transport import Transport
    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import ReplicaEvents, Work

__all__ = ["Sending"]

#: The most calls of a bundle: with so many, hardly any of what a call costs is the frame's part.
_LARGEST: Final = 256
#: The most for a method of which nothing is known, or that is slow: of calls that go alone nothing would be learnt.
_FEWEST: Final = 2
#: Seconds that a bundle's calls are to take together.
_BUNDLE_S: Final = 0.005

#: Seconds in which a caller that gets its answer calls again, if it does so at once, and the most to wait for several.
_CALLS_AGAIN_S: Final = 0.000025
_LONGEST_NAP_S: Final = 0.0002

_NO_OPTIONS: Final = CallOptions()

#: Stands among the outgoing work for a frame that must leave although there is none.
_POLL: Final = object()


class Sending:
    """
    Sends what a replica gets, one frame at a time, in whichever thread is there. From any thread.

    What is sent while a frame is being made, or while a response is being read, leaves together in the next frame.

    Arguments that are no plain data are packed before the frame is made, by the caller's own thread if it waits in
    `call`, else by a thread of their own: that may take long, and then it holds up no other call.

    Attributes:
        caller: Who sends, for the replica.
        corked: Whether a response is being read: what that leads to leaves together.
        released: Callers who were waiting for what the last response brought.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what it takes to send
        self,
        service: str,
        events: ReplicaEvents,
        clock: Clock,
        transport: Transport,
        outstanding: Outstanding,
        too_late: Callable[[], None],
    ) -> None:
        """
        Send nothing yet.

        Args:
            service: Whose calls they are, for errors.
            events: Whom to tell.
            clock: For deadlines.
            transport: The way to the process.
            outstanding: What was sent, and is not over.
            too_late: Told that something was to be sent when the process was gone already.
        """
        self.caller = uuid.uuid4().hex
        self.corked = False
        self.released = 0
        self._service = service
        self._events = events
        self._clock = clock
        self._transport = transport
        self._outstanding = outstanding
        remember(self.caller, outstanding)
        self._too_late = too_late
        self._numbers = count()  # of calls and units; used by one thread at a time, as the next
        self._frames = count()
        self._ahead: dict[int, int] = {}  # calls to a bundle, by method of the first; used by one thread at a time
        self._queue = DrainQueue()
        self._notices: deque[Notice] = deque()

    def take_unsent(self) -> list[Work]:
        """What was to leave with the next frame; it leaves no more."""
        items, found = self._queue.items, []
        try:
            while items:
                work = items.popleft()
                if work is not _POLL:
                    found.append(work)
        except IndexError:  # another thread reports that the process is gone
            pass
        return found

    def send(self, work: Work) -> None:
        """Have a call or a batch leave with the next frame, which is now unless one is being made."""
        calls = work.calls if isinstance(work, Batch) else (work,)
        slow = [call for call in calls if call.packed is None and not is_plain(call.args, call.kwargs)]
        if slow and not (isinstance(work, Call) and work.reader_thread == threading.get_ident()):
            CALLBACKS.run(partial(self._send_slow, work, slow))
            return
        if isinstance(work, Batch) and not self.corked:
            # Its time was over, so that this is the clock's thread: it sends nothing.
            self._transport.soon(lambda: self._put(work))
            return
        try:
            for call in slow:
                self._pack(call)
            with DeferredSignals():
                self._put(work)
        except BaseException:  # a signal handler's, as soon as the work had left
            self._leave(work)
            raise

    def _send_slow(self, work: Work, slow: Sequence[Call]) -> None:
        for call in slow:
            self._pack(call)
        self._put(work)

    def _pack(self, call: Call) -> bool:
        """Pack the arguments of *call*; if that fails it is over, and this is False."""
        try:
            call.packed = pack_arguments(
                call.args,
                call.kwargs,
                service=self._service,
                method=call.method.name,
                substrate=self._transport.substrate,
            )
        except BaseException as raised:  # noqa: BLE001 - a user's __reduce__ may raise anything
            call.give_up(raised, Outcome.ERROR)
            return False
        return True

    def _leave(self, work: Work) -> None:
        """Its caller's thread was interrupted, and waits no more."""
        if isinstance(work, Batch):
            return
        exchange, work.exchange = work.exchange, None
        if exchange is not None:
            exchange.leave()
        work.abandon()

    def _put(self, item: Any) -> None:
        self._queue.items.append(item)
        if not self.corked:
            self.flush(waits=isinstance(item, Call) and item.reader_thread == threading.get_ident())

    def flush(self, reader: Call | None = None, *, waits: bool) -> None:
        """Send what is to be sent; *waits*: whether this thread has nothing better to do than to wait for an answer."""
        queue, outstanding = self._queue, self._outstanding
        while queue.items and outstanding.dead is None and queue.take():
            try:
                if waits and self.released > 1:
                    self._wait_for_callers()
                self._send_frame(reader)
            finally:
                queue.leave()
        if self._outstanding.dead is not None and (self._queue.items or self._outstanding.units):
            self._too_late()  # it was on its way when the loss was told

    def _wait_for_callers(self) -> None:
        """Give callers who were released together a moment to call again: then their calls leave together."""
        released, self.released = self.released, 0
        if len(self._queue.items) < released:
            time.sleep(min(released * _CALLS_AGAIN_S, _LONGEST_NAP_S))

    def _send_frame(self, reader: Call | None) -> None:
        """Send all that is to be sent, in one frame; for one thread at a time."""
        outstanding = self._outstanding
        if outstanding.dead is not None:
            return
        idle = outstanding.idle
        units = []
        own: Call | None = None
        for work in self.take_unsent():
            unit = self._unit(work)
            if unit is not None:
                units.append(unit)
                if isinstance(work, Call) and work.reader_thread == threading.get_ident():
                    # Its caller waits in this very thread, and reads the answer here: that saves waking another.
                    own = work
        notices = []
        while self._notices:
            notices.append(self._notices.popleft())
        with outstanding.lock:
            if not units and not notices and (self._transport.pushes or outstanding.exchanges or outstanding.idle):
                return
            # Else the answer may come with the one that is on its way, and whoever waited for this one would not know.
            alone = outstanding.exchanges == 0
            outstanding.exchanges += not self._transport.pushes
        number, fresh = next(self._frames), idle and alone
        exchange = self._transport.exchange(Frame(self.caller, number, tuple(units), tuple(notices), fresh))
        own = own or (reader if alone and not self._transport.pushes else None)
        if own is None or own.exchange is not None:  # one thread waits for one response
            exchange.leave()
        else:
            own.exchange = exchange

    def _unit(self, work: Work) -> Unit | None:
        """Claim the calls of *work* and put them into words; None if none is left, and then its slot is free."""
        batch = isinstance(work, Batch)
        number = next(self._numbers)
        items = []
        for call in work.calls if batch else (work,):
            item = self._item(call, next(self._numbers) if batch else number)
            if item is not None:
                items.append(item)
        if batch:
            work.owner.batch_started(work, len(items))
        if not items:
            self._events.freed(work)
            return None
        bundle = None if batch else self._send_ahead(work, items)
        told = False
        if bundle is not None:
            number = next(self._numbers)
            told = self._transport.exact and not all(
                each.options.may_run_twice(each.method) for each in bundle.values()
            )
            if told:
                self._outstanding.unstarted.update(item.id for item in items[1:])
        self._outstanding.units[number] = SentUnit(work, tuple(item.id for item in items), bundle)
        return Unit(number, tuple(items), batch, told)

    def _send_ahead(self, call: Call, items: list[CallItem]) -> dict[int, Call] | None:
        """Add to *items*, which has *call*, what may run in its slot after it; gives all calls if there are others."""
        most = self._ahead.get(call.method.index, _FEWEST)
        bundle = {items[0].id: call}
        slow = []
        # Who sends what has to be packed elsewhere sends more of it, most likely.
        if most == 1 or not is_quick(items[0].payload):
            return None
        for other in self._events.ahead(call, most - 1, told=self._transport.exact):
            if other.packed is None and not is_plain(other.args, other.kwargs):
                slow.append(other)
                continue
            item = self._item(other, next(self._numbers))
            if item is not None:
                items.append(item)
                bundle[item.id] = other
        if slow:
            self._events.returned(slow)
        return bundle if len(bundle) > 1 else None

    def learn_one(self, method: int, seconds: float) -> None:
        """A call of *method* has run so long: nothing is sent ahead behind one that takes too long for two."""
        if 2 * seconds > _BUNDLE_S:
            self._ahead[method] = 1
        elif self._ahead.get(method) == 1:
            self._ahead[method] = _FEWEST

    def learn(self, method: int, size: int, seconds: float) -> None:
        """Have the next bundle take no longer than it should, and be no more than twice as large as this one."""
        fit = int(_BUNDLE_S * size / seconds) if seconds > 0 else _LARGEST
        self._ahead[method] = max(_FEWEST, min(fit, 2 * size, _LARGEST))

    def _item(self, call: Call, number: int) -> CallItem | None:
        now = self._clock.monotonic()
        if now >= call.expires and call.method is not CANARY:
            call.expire()
            return None
        if call.packed is None and (call.settled() or not self._pack(call)):
            return None
        options = self._options(call) if self._transport.routes and call.options != _NO_OPTIONS else None
        if call.settled():
            return None
        packed, call.packed = call.packed, None
        self._outstanding.add(number, call)  # first: whoever gives it up from the next line on looks for it there
        if not call.claim():
            self._outstanding.forget(number)
            return None
        carried = leaving_with(call.context)
        call.context = None  # the rest of it does not travel
        streams = isinstance(call, StreamCall)
        if isinstance(call, StreamCall):
            reading = StreamReading(self.notify, self._transport.soon, call, number)
            self._outstanding.readings[number] = reading
        since, left = now - call.since, call.deadline - now
        return CallItem(
            number, call.method.index, packed, since, left, streams, _chain(call), carried, call.waits, options
        )

    def _options(self, call: Call) -> tuple[Any, ...] | None:
        """The options of *call*, for a router there; a call whose key cannot travel is over."""
        options = tuple(call.options)
        if is_plain(options, {}):
            return options
        msg = (
            f"{self._service}.{call.method.name} was not sent: its key is a {type(call.key).__qualname__}, and only a "
            "text, a number, bytes, or a tuple of them goes to a service of another process"
        )
        call.give_up(InvalidKeyError(msg), Outcome.ERROR)
        return None

    def notify(self, notice: Notice) -> None:
        """Have *notice* leave now."""
        with DeferredSignals():
            self._notices.append(notice)
            self._put(_POLL)

    def say(self, notice: Notice) -> None:
        """Have *notice* leave with the next frame."""
        self._notices.append(notice)

    def send_batches(self) -> None:
        """Send what waits, unless callers who were released together are about to add to it."""
        # A batch that got the slot leaves before anybody is woken: all want to go on, and only one at a time can.
        # Others who are released together call again first, see `_wait_for_callers`.
        items = self._queue.items
        if items and (self.released <= 1 or any(isinstance(item, Batch) for item in items)):
            self._queue.drain(lambda: self._send_frame(None), self._outstanding.is_dead)

    def keep_exchange(self, reader: Call | None) -> None:
        """
        Send what waits after a response; if the replica has more to say, an exchange goes there in any case.

        Args:
            reader: The call whose caller's thread this is, and may wait for the next response; None for any other.
        """
        if self._outstanding.idle:
            if not (self._queue.items or self._notices):  # there is nothing to be said, and nothing to be heard
                return
        elif not self._transport.pushes:
            self._queue.items.append(_POLL)  # the replica says nothing unless there is an exchange
        over = reader is not None and (reader.over() or reader.answered)
        self.flush(None if over else reader, waits=not over)


def _chain(call: Call) -> tuple[tuple[str, int], ...]:
    """The slots in other processes that are held until *call* is answered."""
    outer = call.outer
    while outer is not None and not outer.chain:  # the calls in between were made in this process
        outer = outer.outer
    return () if outer is None else outer.chain
