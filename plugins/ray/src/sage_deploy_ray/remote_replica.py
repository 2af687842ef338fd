"""The caller's side of a replica in another process: what is sent to it, what comes back, and what its death means."""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from sage_deploy_ray import protocol
from sage_deploy_ray.protocol import CallItem, Frame, Letter, Unit
from sage_deploy_remote.payloads.errors import unpack_error
from sage_deploy_remote.payloads.packing import pack_arguments
from sage_deploy_remote.payloads.payload import unpack
from sage_plugins.batch import Batch
from sage_plugins.call import Call
from sage_plugins.interfaces import ControlOp
from sage_plugins.stream import StreamCall
from sage_plugins.values import Outcome, ReplicaState, RunnerStats

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from sage_deploy_ray.protocol import Notice
    from sage_deploy_remote.payloads.substrate import Substrate
    from sage_plugins.clock import Clock, Timer
    from sage_plugins.interfaces import ReplicaEvents, Work
    from sage_plugins.listing import ListedReplica
    from sage_plugins.values import ReplicaSpec

__all__ = ["Exchange", "Receiver", "RemoteReplica", "Stopped", "Transport"]

#: The most calls of a bundle: with so many, hardly any of what a call costs is the frame's part.
_LARGEST: Final = 256
#: The most for a method of which nothing is known, or that is slow: of calls that go alone nothing would be learnt.
_FEWEST: Final = 2
#: Seconds that a bundle's calls are to take together.
_BUNDLE_S: Final = 0.005

#: Seconds in which a caller that gets its answer calls again, if it does so at once, and the most to wait for several.
_CALLS_AGAIN_S: Final = 0.000025
_LONGEST_NAP_S: Final = 0.0002

#: Stands among the outgoing work for a frame that must leave although there is none.
_POLL: Final = object()


class Exchange(Protocol):
    """One frame on its way, and the letter that will answer it. One of the two methods is called, once."""

    def wait(self, call: Call, seconds: float | None) -> None:
        """
        Wait for the letter in the thread of *call*'s caller, and read it there.

        After *seconds*, and when the wait is interrupted, another thread reads it when it comes.
        """

    def leave(self) -> None:
        """Have another thread read the letter when it comes."""


class Stopped(NamedTuple):
    """
    How a replica stopped.

    Attributes:
        left: Calls that still ran; they ended with the process.
        stats: Its last `ControlOp.STATS`, None if it could not be asked any more.
    """

    left: int
    stats: Mapping[str, Any] | None


class Transport(Protocol):
    """The way to one replica's process. What arrives is handed to a `Receiver`, in any thread."""

    substrate: Substrate
    """What carries the frames; `payloads.substrate.PLAIN` if nothing but bytes travels."""

    address: Any
    """By which other processes reach it; from `start` on."""

    def start(self, spec: Any, receiver: Receiver) -> None:
        """
        Start the process and the replica in it; returns at once.

        Args:
            spec: What to run, a `ReplicaSpec`; to one that runs already, its `ListedReplica`.
            receiver: Whom to tell.
        """

    def progress(self, timeout: float) -> str:
        """As `interfaces.Replica` says, of a process that was started; the answer comes in *timeout* seconds."""

    def exchange(self, frame: Frame) -> Exchange:
        """Send *frame*; never blocks. If it cannot be sent, `Receiver.lost` is told."""

    def control(self, op: ControlOp, arg: Any, notices: Collection[tuple[str, Notice]], timeout: float) -> Any:
        """Ask beside the calls, and wait for the answer."""

    def vacate(self) -> Callable[[float], None]:
        """Have the replica take no calls any more; gives what waits for those that it has, at most so many seconds."""

    def ask_to_stop(self) -> None:
        """Have the replica run its stop hooks; returns at once."""

    def stop(self, grace: float) -> Stopped:
        """Stop the replica, wait for it at most *grace* seconds, and end its process."""

    def soon(self, do: Callable[[], None]) -> None:
        """Have the thread that reads letters do something quick."""

    def aside(self, do: Callable[[], None]) -> None:
        """Have another thread do something that may take its time."""


class Receiver(Protocol):
    """What a transport tells; each may come from any thread."""

    def started(self, slots: int) -> None:
        """The replica is ready."""

    def failed(self, cause: BaseException) -> None:
        """The constructor or a start hook raised; the process lives."""

    def arrived(self, letter: Letter, driver: Call | None = None) -> None:
        """A letter has come; *driver* is the call whose caller's thread has waited for it."""

    def lost(self, cause: BaseException) -> None:
        """The process is gone, with all it had. May be told more than once."""


class _Turns:
    """Things that one thread at a time takes away, whichever is there; nobody waits for another."""

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self._busy = threading.Lock()

    def drain(self, take: Callable[[], None], over: Callable[[], bool] = lambda: False) -> None:
        """Have *take* empty `items`, unless *over*; if another thread is at it, that one looks again before it goes."""
        while self.items and not over() and self._busy.acquire(blocking=False):
            try:
                take()
            finally:
                self._busy.release()


class _Sent(NamedTuple):
    """
    A unit that holds its slot in the replica.

    Attributes:
        work: What took the slot.
        numbers: Those of its calls.
        bundle: The calls by number if it is one with others that were sent ahead, else None.
    """

    work: Work
    numbers: Collection[int]
    bundle: dict[int, Call] | None = None

    def works(self) -> Sequence[Work]:
        """What has no outcome yet; of a bundle each on its own."""
        return [self.work] if self.bundle is None else [call for call in self.bundle.values() if not call.settled()]


class RemoteReplica:
    """
    A replica whose host is in another process.

    Calls are claimed when they are sent: from then on they may have started. Calls that are sent while others are being
    sent, or while a letter is being read, leave together in the next frame.
    """

    run_here: Callable[[Call], None] | None = None

    def __init__(
        self,
        spec: ReplicaSpec | ListedReplica,
        node: str | None,
        events: ReplicaEvents,
        clock: Clock,
        transport: Transport,
    ) -> None:
        """
        Start the replica; returns at once.

        Args:
            spec: What to run, or what runs already.
            node: Name of the node where it runs.
            events: Whom to tell.
            clock: For deadlines.
            transport: The way to its process.
        """
        self.id = spec.id
        self.index = spec.index
        self.node = node
        self.slots = 0
        self.send: Callable[[Work], None] = self._send
        self.cancel: Callable[[Call], None] = self._cancel
        self._spec = spec
        self._events = events
        self._clock = clock
        self._transport = transport
        self._substrate = transport.substrate
        self.soon = transport.soon
        self._caller = uuid.uuid4().hex
        self._numbers = count()  # of calls and units; used by one thread at a time, as the next
        self._frames = count()
        self._units: dict[int, _Sent] = {}
        self._calls: dict[int, Call] = {}  # sent and not answered
        self._number_of: dict[Call, int] = {}  # the same, the other way round
        self._given_up: dict[int, Notice] = {}  # those among them that were given up here
        self._ahead: dict[int, int] = {}  # calls to a bundle, by method of the first; used by one thread at a time
        self._readings: dict[int, _Reading] = {}  # those among them that are streams
        self._gathering: dict[Any, Timer | None] = {}  # batches that wait for calls to join, and what ends that
        self._outgoing = _Turns()
        self._notices: deque[Notice] = deque()
        self._incoming = _Turns()
        self._early: dict[int, Letter] = {}  # letters that overtook others; used by one thread at a time, as the next
        self._expected = 0
        self._answers: list[tuple[Call, Any, BaseException | None]] = []  # that were read, and are to be published
        self._released = 0  # callers who were waiting for what the last letter brought
        self._corked = False  # whether a letter is being read: what that leads to leaves together
        self._lock = threading.Lock()
        self._exchanges = 0  # on their way; guarded by _lock, as the next
        self._dead: BaseException | None = None
        self._withheld = 0  # slots whose units were refused
        self._counted: Call | None = None  # is being given up here because the replica has given it up and counted it
        self._asked = False  # whether it was asked to stop
        self._ended = False  # whether it was stopped
        self._last_stats: Mapping[str, Any] | None = None  # those with which it stopped, and when
        self._stopped_at = 0.0
        events.changed(ReplicaState.STARTING)
        transport.start(spec, self)

    # -- its life ----------------------------------------------------------------------------------------------------

    def started(self, slots: int) -> None:
        """As `Receiver.started`."""
        self.slots = slots
        self._events.changed(ReplicaState.READY)

    def failed(self, cause: BaseException) -> None:
        """As `Receiver.failed`."""
        self._events.changed(ReplicaState.FAILED, cause)

    def lost(self, cause: BaseException) -> None:
        """As `Receiver.lost`."""
        with self._lock:
            if self._dead is not None or self._ended:
                return
            self._dead = cause
        self._report_lost(cause)

    def _report_lost(self, cause: BaseException) -> None:
        """Tell what the process had, and what was to go there."""
        unsent = [*self._take_gathering(), *self._take_unsent()]
        units, self._units = self._units, {}
        self._forget_calls()
        self._events.lost(unsent, [work for sent in units.values() for work in sent.works()], cause)

    def _take_gathering(self) -> list[Batch]:
        """The batches that wait for calls to join; their timers are forgotten."""
        gathering, self._gathering = self._gathering, {}
        for timer in gathering.values():
            if timer is not None:
                timer.cancel()
        return list(gathering)

    def _take_unsent(self) -> list[Work]:
        take, found = self._outgoing.items.popleft, []
        try:
            while True:
                work = take()
                if work is not _POLL:
                    found.append(work)
        except IndexError:
            return found

    def _forget_calls(self) -> None:
        self._calls.clear()
        self._number_of.clear()
        self._given_up.clear()
        self._readings.clear()

    @property
    def gone(self) -> bool:
        """Whether its process has ended."""
        return self._ended or self._dead is not None

    @property
    def address(self) -> Any:
        """By which other processes reach it."""
        return self._transport.address

    def vacate(self) -> Callable[[float], None]:
        """As `interfaces.Replica` says."""
        return self._transport.vacate()

    def progress(self, *, timeout: float) -> str:
        """As `interfaces.Replica` says."""
        return self._transport.progress(timeout)

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:
        """As `Replica.control`. One that has stopped gives the statistics with which it did."""
        if op is not ControlOp.STATS:
            return self._transport.control(op, arg, (), timeout)
        if self._last_stats is not None:
            return {**self._last_stats, "age": self._clock.monotonic() - self._stopped_at}
        if self._dead is not None:
            raise self._dead
        notices = [(self._caller, notice) for notice in tuple(self._given_up.values())]
        return self._transport.control(op, arg, notices, timeout)

    def stop(self, grace: float) -> int:
        """As `Replica.stop`; then its process is ended, and with it whatever still runs."""
        if self._ended:
            return 0
        if grace <= 0 and not self._asked:  # others are asked too before anybody is waited for
            self._asked = True
            self._transport.ask_to_stop()
            return 0
        left, stats = self._transport.stop(grace)
        self._end(stats)
        return left

    def leave(self) -> None:
        """As `interfaces.Replica` says."""
        self._end(None)

    def _end(self, stats: Mapping[str, Any] | None) -> None:
        """Whatever has not been answered from here never will be."""
        with self._lock:
            self._ended = True
        if stats is not None:
            self._stopped_at = self._clock.monotonic()
            self._last_stats = {**stats, "runner": RunnerStats(0)}
        for call in tuple(self._calls.values()):
            call.give_up(call.stopped_error(self.id, self.node), Outcome.STOPPED)
        for work in [*self._take_gathering(), *self._take_unsent()]:
            for call in work.calls if isinstance(work, Batch) else (work,):
                call.give_up(call.stopped_error(self.id, self.node), Outcome.STOPPED)
        self._units.clear()
        self._forget_calls()

    # -- sending -----------------------------------------------------------------------------------------------------

    def _send(self, work: Work) -> None:
        """Have a call or a batch leave with the next frame, which is now unless one is being made."""
        if isinstance(work, Batch) and not work.is_closed:
            self._gathering[work] = None
            self._transport.soon(lambda: self._gather(work))
        else:
            self._put(work)

    def _gather(self, batch: Batch) -> None:
        """Send *batch* once nobody joins it any more; in the thread that reads letters."""
        if batch not in self._gathering:
            return
        timer = self._gathering[batch]
        if timer is not None:  # a batch that is full before its time is not waited for any more
            timer.cancel()

        def look_again() -> None:
            self._transport.soon(lambda: self._gather(batch))

        seconds = batch.watch(look_again)
        if seconds > 0:
            self._gathering[batch] = self._clock.call_at(self._clock.monotonic() + seconds, look_again)
        elif self._gathering.pop(batch, self) is not self:  # else it was taken away meanwhile
            self._put(batch)

    def _put(self, item: Any) -> None:
        self._outgoing.items.append(item)
        if not self._corked:
            self._flush(waits=isinstance(item, Call) and item.driver == threading.get_ident())

    def _flush(self, driver: Call | None = None, *, waits: bool) -> None:
        """Send what is to be sent; *waits*: whether this thread has nothing better to do than to wait for an answer."""

        def send() -> None:
            if waits and self._released > 1:
                self._wait_for_callers()
            self._send_frame(driver)

        self._outgoing.drain(send, lambda: self._dead is not None)
        if self._dead is not None and (self._outgoing.items or self._units):  # what was on its way when that was told
            self._report_lost(self._dead)

    def _wait_for_callers(self) -> None:
        """Give callers who were released together a moment to call again: then their calls leave together."""
        released, self._released = self._released, 0
        if len(self._outgoing.items) < released:
            time.sleep(min(released * _CALLS_AGAIN_S, _LONGEST_NAP_S))

    def _send_frame(self, driver: Call | None) -> None:
        """Send all that is to be sent, in one frame; for one thread at a time."""
        if self._dead is not None:
            return
        idle = not self._units and not self._withheld
        units = []
        own: Call | None = None
        for work in self._take_unsent():
            unit = self._unit(work)
            if unit is not None:
                units.append(unit)
                if isinstance(work, Call) and work.driver == threading.get_ident():
                    # Its caller waits in this very thread, and reads the answer here: that saves waking another.
                    own = work
        notices = []
        while self._notices:
            notices.append(self._notices.popleft())
        with self._lock:
            if not units and not notices and (self._exchanges or not (self._units or self._withheld)):
                return
            # Else the answer may come with the one that is on its way, and whoever waited for this one would not know.
            alone = self._exchanges == 0
            self._exchanges += 1
        number, fresh = next(self._frames), idle and alone
        exchange = self._transport.exchange(Frame(self._caller, number, tuple(units), tuple(notices), fresh))
        own = own or (driver if alone else None)
        if own is None or own.exchange is not None:  # one thread waits for one letter
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
        if bundle is not None:
            number = next(self._numbers)
        self._units[number] = _Sent(work, tuple(item.id for item in items), bundle)
        return Unit(number, tuple(items), batch)

    def _send_ahead(self, call: Call, items: list[CallItem]) -> dict[int, Call] | None:
        """Add to *items*, which has *call*, what may run in its slot after it; gives all calls if there are others."""
        most = self._ahead.get(call.method.index, _FEWEST)
        bundle = {items[0].id: call}
        for other in self._events.ahead(call, most - 1):
            item = self._item(other, next(self._numbers))
            if item is not None:
                items.append(item)
                bundle[item.id] = other
        return bundle if len(bundle) > 1 else None

    def _learn(self, method: int, size: int, seconds: float) -> None:
        """Have the next bundle take no longer than it should, and be no more than twice as large as this one."""
        fit = int(_BUNDLE_S * size / seconds) if seconds > 0 else _LARGEST
        self._ahead[method] = max(_FEWEST, min(fit, 2 * size, _LARGEST))

    def _item(self, call: Call, number: int) -> CallItem | None:
        now = self._clock.monotonic()
        if now >= call.expires:
            call.expire()
            return None
        try:
            packed = pack_arguments(
                call.args,
                call.kwargs,
                service=self._spec.service,
                method=call.method.name,
                substrate=self._substrate,
            )
        except BaseException as raised:  # noqa: BLE001 - a user's __reduce__ may raise anything
            call.give_up(raised, Outcome.ERROR, aside=self._transport.aside)  # letters may be waiting for this thread
            return None
        self._calls[number] = call  # first: whoever gives it up from the next line on looks for it here
        self._number_of[call] = number
        if not call.claim():
            self._forget(number)
            return None
        call.context = None  # it does not travel
        streams = isinstance(call, StreamCall)
        if isinstance(call, StreamCall):
            self._readings[number] = _Reading(self, call, number)
        chain = () if call.outer is None else call.outer.chain
        return CallItem(number, call.method.index, packed, now - call.since, call.deadline - now, streams, chain)

    def _forget(self, number: int) -> Call | None:
        call = self._calls.pop(number, None)
        if call is not None:
            self._number_of.pop(call, None)
            self._given_up.pop(number, None)
            reading = self._readings.pop(number, None)
            if reading is not None:
                reading.over = True
        return call

    def notify(self, notice: Notice) -> None:
        """Have *notice* leave now."""
        self._notices.append(notice)
        self._put(_POLL)

    # -- calls that are given up -------------------------------------------------------------------------------------

    def _cancel(self, call: Call) -> None:
        """End an asynchronous generator that nobody reads any more; for a call that was given up see `counts`."""
        reading = self._readings.get(self._number_of.get(call, -1))
        if reading is not None and not call.settled():
            reading.close()

    def counts(self, call: Call, outcome: int, spent: float) -> bool:
        """Whether the replica counts a call that was given up while it ran: it is told to, and to stop a coroutine."""
        if call is self._counted or call.answered:
            return True
        number = self._number_of.get(call)
        if number is None or self._dead is not None or self._ended:
            return False
        notice = self._given_up[number] = (protocol.GIVE_UP, number, outcome, spent)
        self.notify(notice)
        return True

    # -- receiving ---------------------------------------------------------------------------------------------------

    def arrived(self, letter: Letter, driver: Call | None = None) -> None:
        """As `Receiver.arrived`."""
        self._incoming.items.append(letter)
        self._incoming.drain(lambda: self._read(driver))

    def _read(self, driver: Call | None) -> None:
        """Read all letters that have come; for one thread at a time."""
        items = self._incoming.items
        self._corked = True
        self._released = 0
        try:
            while items:
                letter = items.popleft()
                with self._lock:
                    self._exchanges -= 1
                self._early[letter.number] = letter
            while self._dead is None and (following := self._early.pop(self._expected, None)) is not None:
                self._expected += 1
                for reply in following.replies:
                    self._READ[reply[0]](self, *reply[1:])
            # A batch that got the slot leaves before anybody is woken: all want to go on, and only one at a time can.
            # Others who are released together call again first, see `_wait_for_callers`.
            if self._released <= 1 or any(isinstance(item, Batch) for item in self._outgoing.items):
                self._outgoing.drain(lambda: self._send_frame(None), lambda: self._dead is not None)
        finally:
            self._corked = False
            answers, self._answers = self._answers, []
            for call, result, error in answers:
                call.publish(result, error)
        if not (self._units or self._withheld):
            if not (self._outgoing.items or self._notices):  # there is nothing to be said, and nothing to be heard
                return
        else:
            self._outgoing.items.append(_POLL)  # the replica says nothing unless there is an exchange
        over = driver is not None and driver.over()
        self._flush(None if over else driver, waits=not over)

    def _read_done(self, number: int, packed: Any) -> None:
        try:
            result = unpack(packed)
        except BaseException as raised:  # noqa: BLE001 - whatever unpickling does is the caller's to know
            self._answer(number, None, raised)
        else:
            self._answer(number, result, None)

    def _read_failed(self, number: int, packed: Any) -> None:
        self._answer(number, None, unpack_error(packed))

    def _answer(self, number: int, result: Any, error: BaseException | None) -> None:
        call = self._calls.get(number)
        if call is None:  # ended by `stop`
            return
        call.answered = True  # first: whoever gives it up at this moment must not count it too
        self._forget(number)
        sent = self._units.pop(number, None)
        wanted = call.claim_outcome()
        if not wanted:
            call.owner.abandoned_ended(call)
        if sent is not None:  # the slot first, the caller second
            self._events.freed(sent.work)
        if not wanted:
            return
        self._released += call.awaited
        if call.has_callbacks:  # a user's, which may take their time
            self._transport.aside(lambda: call.publish(result, error))
        else:
            self._answers.append((call, result, error))

    def _read_item(self, number: int, packed: Any) -> None:
        reading = self._readings.get(number)
        if reading is not None:
            reading.deliver(packed)

    def _read_gave_up(self, number: int, packed: Any, outcome: int) -> None:
        call = self._calls.get(number)
        if call is not None:
            self._counted = call
            try:
                call.give_up(unpack_error(packed), outcome, aside=self._transport.aside)
            finally:
                self._counted = None

    def _read_ended(self, number: int, seconds: float) -> None:
        sent = self._units.pop(number, None)
        if sent is None:
            return
        if sent.bundle is not None:
            self._learn(sent.work.method.index, len(sent.bundle), seconds)
        for each in sent.numbers:
            call = self._forget(each)
            if call is not None and call.settled():
                call.owner.abandoned_ended(call)
        self._events.freed(sent.work)

    def _read_refused(self, number: int, stuck: bool) -> None:  # noqa: FBT001 - as it came
        sent = self._units.pop(number, None)
        if sent is None:
            return
        calls = [call for each in sent.numbers if (call := self._forget(each)) is not None]
        with self._lock:
            self._withheld += 1
        if sent.bundle is not None:  # first, so that the oldest comes to the head
            self._events.returned(calls[1:])
        self._events.refused(sent.work, stuck=stuck)

    def _read_returned(self, unit: int, numbers: Sequence[int]) -> None:
        sent = self._units.get(unit)
        if sent is None or sent.bundle is None:
            return
        calls = []
        for number in numbers:
            del sent.bundle[number]
            if number not in self._given_up:  # else it was told so, and counts the call
                self._notices.append((protocol.TAKEN_BACK, number))
            call = self._forget(number)
            if call is not None:
                calls.append(call)
        self._units[unit] = sent._replace(numbers=tuple(sent.bundle))
        self._events.returned(calls)

    def _read_room(self, number: int) -> None:
        with self._lock:
            number = min(number, self._withheld)
            self._withheld -= number
        for _ in range(number):
            self._events.freed(None)

    _READ: Final[Mapping[int, Callable[..., None]]] = {
        protocol.DONE: _read_done,
        protocol.FAILED: _read_failed,
        protocol.ITEM: _read_item,
        protocol.GAVE_UP: _read_gave_up,
        protocol.ENDED: _read_ended,
        protocol.REFUSED: _read_refused,
        protocol.ROOM: _read_room,
        protocol.RETURNED: _read_returned,
    }


class _Reading:
    """
    A stream whose producer is in the replica: what has come waits in its channel for the consumer.

    Attributes:
        over: Whether the producer has ended, or was told to.
    """

    def __init__(self, replica: RemoteReplica, call: StreamCall, number: int) -> None:
        self.over = False
        self._replica = replica
        self._call = call
        self._number = number
        self._delivered = 0
        self._acknowledged = 0  # guarded by _lock
        self._lock = threading.Lock()
        self._listening = False
        self._listen()

    def _listen(self) -> None:
        if not self._listening:
            self._listening = True
            self._call.channel.on_room(self._read_on)

    def deliver(self, packed: Any) -> None:
        """One more item has come."""
        try:
            item = unpack(packed)
        except BaseException as raised:  # noqa: BLE001 - whatever unpickling does is the caller's to know
            self._call.give_up(raised, Outcome.ERROR)
            return
        self._delivered += 1
        self._listen()  # first: the consumer may read the item, and then no other, at any moment
        self._call.channel.deliver(item)

    def _read_on(self) -> None:
        """The consumer has read some, or reads no more."""
        self._listening = False
        if self._call.channel.closed:
            self.close()
        elif not self.over and not self._acknowledge():
            # Others came meanwhile, which found this still listening. Not from here: whoever is listened to asks again
            # for as long as somebody does.
            self._replica.soon(self._listen_again)

    def _listen_again(self) -> None:
        self._listen()
        self._acknowledge()  # what was taken before that

    def _acknowledge(self) -> bool:
        """Say how many more were read; False if none was, and then the producer may wait for ever."""
        with self._lock:  # producer and consumer may come here at the same time
            number = self._delivered - self._call.channel.waiting - self._acknowledged
            if number > 0:
                self._acknowledged += number
        if number > 0:
            self._replica.notify((protocol.ACK, self._number, number))
        return number > 0

    def close(self) -> None:
        """Have the producer end."""
        if not self.over:
            self.over = True
            self._replica.notify((protocol.CLOSE, self._number))
