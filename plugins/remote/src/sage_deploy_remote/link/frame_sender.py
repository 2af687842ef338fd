"""Sends calls and notices to a replica, gathered into frames."""

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
from sage_deploy_remote.link.incoming_stream import IncomingStream
from sage_deploy_remote.link.outstanding import SentUnit, register_sender
from sage_deploy_remote.link.protocol import CallItem, Frame, Unit
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

__all__ = ["FrameSender"]

#: Largest bundle. With more calls, the frame's share of a call's cost hardly shrinks further.
_LARGEST_BUNDLE: Final = 256
#: Largest bundle for a method that is slow or not known yet. It is 2 because single calls would teach nothing.
_SMALLEST_BUNDLE: Final = 2
#: Target run time of a bundle, in seconds.
_BUNDLE_TARGET_S: Final = 0.005

#: Seconds that an answered caller needs to call again, if it does so at once; and the longest wait for several callers.
_CALLS_AGAIN_S: Final = 0.000025
_LONGEST_NAP_S: Final = 0.0002

_NO_OPTIONS: Final = CallOptions()

#: Queue item that forces a frame even if there is no work to send.
_POLL: Final = object()


class FrameSender:
    """
    Sends frames to a replica, one at a time, in the thread that calls. Thread-safe.

    Work that arrives while a thread makes a frame or reads a response leaves together in the next frame.

    Arguments that are not plain data are packed before the frame is made, because packing may take long and must not
    delay other calls. A caller that waits in `call` packs them in its own thread; otherwise a separate thread does.

    Attributes:
        caller: Random text that identifies this sender to the replica.
        holds_work: Whether work stays in the queue: while a response is read, so that what it leads to leaves in one
            frame, and while `RemoteReplica.hold` applies.
        callers_released: Number of waiting callers that the last response released.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what it takes to send
        self,
        service: str,
        events: ReplicaEvents,
        clock: Clock,
        transport: Transport,
        outstanding: Outstanding,
        on_work_after_loss: Callable[[], None],
    ) -> None:
        """
        Send nothing yet.

        Args:
            service: The service's name, for errors.
            events: Gets notified of what happens to the work.
            clock: For deadlines.
            transport: Carries frames to the process.
            outstanding: Records calls and units that were sent and are not over.
            on_work_after_loss: Called when there is work to send but the process has already gone.
        """
        self.caller = uuid.uuid4().hex
        self.holds_work = False
        self.callers_released = 0
        self._service = service
        self._events = events
        self._clock = clock
        self._transport = transport
        self._outstanding = outstanding
        register_sender(self.caller, outstanding)
        self._on_work_after_loss = on_work_after_loss
        self._numbers = count()  # IDs of calls and units; like `_frames`, used by one thread at a time
        self._frames = count()
        self._bundle_sizes: dict[int, int] = {}  # bundle size by method of its first call; used by one thread at a time
        self._queue = DrainQueue()
        self._notices: deque[Notice] = deque()

    def take_unsent(self) -> list[Work]:
        """Return the work that waits for the next frame, and remove it from the queue."""
        items, found = self._queue.items, []
        try:
            while items:
                work = items.popleft()
                if work is not _POLL:
                    found.append(work)
        except IndexError:  # another thread emptied the queue at the same time, to report that the process is gone
            pass
        return found

    def send(self, work: Work) -> None:
        """Send a call or a batch in the next frame: now, or after the frame that is being made."""
        calls = work.calls if isinstance(work, Batch) else (work,)
        slow = [call for call in calls if call.packed is None and not is_plain(call.args, call.kwargs)]
        if slow and not (isinstance(work, Call) and work.reader_thread == threading.get_ident()):
            CALLBACKS.run(partial(self._send_slow, work, slow))
            return
        if isinstance(work, Batch) and not self.holds_work:
            # The batch's waiting time has ended, so this is the clock's thread, which must not send.
            self._transport.run_quick(lambda: self._put(work))
            return
        try:
            for call in slow:
                self._pack(call)
            with DeferredSignals():
                self._put(work)
        except BaseException:  # raised by a signal handler right after the work left
            self._abandon(work)
            raise

    def _send_slow(self, work: Work, slow: Sequence[Call]) -> None:
        for call in slow:
            self._pack(call)
        self._put(work)

    def _pack(self, call: Call) -> bool:
        """Pack the arguments of *call*; if that fails, end the call with the error and return False."""
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

    def _abandon(self, work: Work) -> None:
        """Give up *work*: the thread of its caller was interrupted and no longer waits."""
        if isinstance(work, Batch):
            return
        exchange, work.exchange = work.exchange, None
        if exchange is not None:
            exchange.read_elsewhere()
        work.abandon()

    def _put(self, item: Any) -> None:
        self._queue.items.append(item)
        if not self.holds_work or self._outstanding.dead is not None:  # after a loss, nobody ends the hold
            self.flush(waits=isinstance(item, Call) and item.reader_thread == threading.get_ident())

    def flush(self, reader: Call | None = None, *, waits: bool) -> None:
        """
        Send the queued work.

        Args:
            reader: The call whose caller may wait for the response in this thread, if any.
            waits: Whether this thread would only wait for an answer now.
        """
        queue, outstanding = self._queue, self._outstanding
        while queue.items and outstanding.dead is None and queue.try_acquire():
            try:
                if waits and self.callers_released > 1:
                    self._wait_for_callers()
                self._send_frame(reader)
            finally:
                queue.release()
        if self._outstanding.dead is not None and (self._queue.items or self._outstanding.units):
            self._on_work_after_loss()  # the work was on its way when the loss was reported

    def _wait_for_callers(self) -> None:
        """Wait briefly until callers that were released together call again, so that their calls share a frame."""
        released, self.callers_released = self.callers_released, 0
        if len(self._queue.items) < released:
            time.sleep(min(released * _CALLS_AGAIN_S, _LONGEST_NAP_S))

    def _send_frame(self, reader: Call | None) -> None:
        """Send all queued work in one frame; for one thread at a time."""
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
                    # The caller waits in this thread, so it reads the answer here. That avoids waking another thread.
                    own = work
        notices = []
        while self._notices:
            notices.append(self._notices.popleft())
        with outstanding.lock:
            if not units and not notices and (self._transport.pushes or outstanding.exchanges or outstanding.idle):
                return
            # If another exchange is open, the replica may answer there. A caller waiting on this one would miss it.
            alone = outstanding.exchanges == 0
            outstanding.exchanges += not self._transport.pushes
        number, fresh = next(self._frames), idle and alone
        exchange = self._transport.exchange(Frame(self.caller, number, tuple(units), tuple(notices), fresh))
        own = own or (reader if alone and not self._transport.pushes else None)
        if own is None or own.exchange is not None:  # a thread waits for one response only
            exchange.read_elsewhere()
        else:
            own.exchange = exchange

    def _unit(self, work: Work) -> Unit | None:
        """
        Claim the calls of *work* and make a unit of them.

        Return None if no call is left. Then the slot has been freed.
        """
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
        bundle = None if batch else self._fill_bundle(work, items)
        reports_starts = False
        if bundle is not None:
            number = next(self._numbers)
            reports_starts = self._transport.exact and not all(
                each.options.may_run_twice(each.method) for each in bundle.values()
            )
            if reports_starts:
                self._outstanding.unstarted.update(item.id for item in items[1:])
        self._outstanding.units[number] = SentUnit(work, tuple(item.id for item in items), bundle)
        return Unit(number, tuple(items), batch, reports_starts)

    def _fill_bundle(self, call: Call, items: list[CallItem]) -> dict[int, Call] | None:
        """
        Add the calls to *items* that may run in the slot of *call* after it.

        Return all calls of this bundle by number, or None if no call was added.
        """
        most = self._bundle_sizes.get(call.method.index, _SMALLEST_BUNDLE)
        bundle = {items[0].id: call}
        slow = []
        # If this payload must be packed in another thread, the next ones most likely must be too.
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

    def note_run_time(self, method: int, seconds: float) -> None:
        """
        Note that a single call of *method* ran for *seconds*.

        If two such calls would exceed the bundle's target time, nothing is sent ahead behind them.
        """
        if 2 * seconds > _BUNDLE_TARGET_S:
            self._bundle_sizes[method] = 1
        elif self._bundle_sizes.get(method) == 1:
            self._bundle_sizes[method] = _SMALLEST_BUNDLE

    def size_next_bundle(self, method: int, size: int, seconds: float) -> None:
        """Set the size of the next bundle to what fits the target time, at most twice this bundle's size."""
        fit = int(_BUNDLE_TARGET_S * size / seconds) if seconds > 0 else _LARGEST_BUNDLE
        self._bundle_sizes[method] = max(_SMALLEST_BUNDLE, min(fit, 2 * size, _LARGEST_BUNDLE))

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
        self._outstanding.add(number, call)  # before `claim`: a thread that then gives it up looks here
        if not call.claim():
            self._outstanding.forget(number)
            return None
        carried = leaving_with(call.context)
        call.context = None  # nothing else of the context travels
        streams = isinstance(call, StreamCall)
        if isinstance(call, StreamCall):
            stream = IncomingStream(self.notify_now, self._transport.run_quick, call, number)
            self._outstanding.streams[number] = stream
        since, left = now - call.since, call.deadline - now
        return CallItem(
            number, call.method.index, packed, since, left, streams, _chain(call), carried, call.waits, options
        )

    def _options(self, call: Call) -> tuple[Any, ...] | None:
        """Return the options of *call* for a remote router; end the call if its key cannot travel."""
        options = tuple(call.options)
        if is_plain(options, {}):
            return options
        msg = (
            f"{self._service}.{call.method.name} was not sent: its key is a {type(call.key).__qualname__}, and only a "
            "text, a number, bytes, or a tuple of them goes to a service of another process"
        )
        call.give_up(InvalidKeyError(msg), Outcome.ERROR)
        return None

    def notify_now(self, notice: Notice) -> None:
        """Send *notice* now."""
        with DeferredSignals():
            self._notices.append(notice)
            self._put(_POLL)

    def notify_later(self, notice: Notice) -> None:
        """Send *notice* with the next frame."""
        self._notices.append(notice)

    def send_batches(self) -> None:
        """Send queued work, unless several released callers are about to add to it."""
        # A batch that got the slot leaves before any caller is woken: woken callers compete for the processor.
        # If there is no batch, several released callers get time to call again, see `_wait_for_callers`.
        items = self._queue.items
        if items and (self.callers_released <= 1 or any(isinstance(item, Batch) for item in items)):
            self._queue.drain(lambda: self._send_frame(None), self._outstanding.is_dead)

    def keep_exchange(self, reader: Call | None) -> None:
        """
        Send queued work after a response, and keep an exchange open if the replica has more to say.

        Args:
            reader: The call whose caller runs this thread and may wait for the next response; None for other threads.
        """
        if self._outstanding.idle:
            if not (self._queue.items or self._notices):  # nothing to send and nothing to receive
                return
        elif not self._transport.pushes:
            self._queue.items.append(_POLL)  # without an open exchange, the replica cannot answer
        over = reader is not None and (reader.over() or reader.answered)
        self.flush(None if over else reader, waits=not over)


def _chain(call: Call) -> tuple[tuple[str, int], ...]:
    """Return the slots in other processes that are held until *call* is answered."""
    outer = call.outer
    while outer is not None and not outer.chain:  # calls in between were made in this process
        outer = outer.outer
    return () if outer is None else outer.chain
