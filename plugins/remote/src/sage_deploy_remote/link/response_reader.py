"""Reads the responses of a replica in order, and acts on each of their replies."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_remote.link import protocol
from sage_deploy_remote.link.deferred_signals import DeferredSignals
from sage_deploy_remote.link.drain_queue import DrainQueue
from sage_deploy_remote.payloads.errors import unpack_error
from sage_deploy_remote.payloads.payload import is_quick
from sage_deploy_remote.payloads.reading import read
from sage_plugins.threads import CALLBACKS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_deploy_remote.link.frame_sender import FrameSender
    from sage_deploy_remote.link.outstanding import Outstanding
    from sage_deploy_remote.link.protocol import Response
    from sage_deploy_remote.link.transport import Transport
    from sage_plugins.call.call import Call
    from sage_plugins.interfaces import ReplicaEvents

__all__ = ["ResponseReader"]


class ResponseReader:
    """
    Reads responses, one at a time, in the thread that calls. Thread-safe.

    That thread may belong to another caller, or read for all callers. So it runs no user code: what is not plain data
    is unpacked in a separate thread.

    Attributes:
        counted_by_replica: The call that is being given up here because the replica gave it up and counted it.
    """

    def __init__(
        self, events: ReplicaEvents, transport: Transport, outstanding: Outstanding, sender: FrameSender
    ) -> None:
        self.counted_by_replica: Call | None = None
        self._events = events
        self._transport = transport
        self._outstanding = outstanding
        self._sender = sender
        self._queue = DrainQueue()
        self._early: dict[int, Response] = {}  # that overtook others; as the next, for one thread at a time
        self._expected = 0
        self._answers: list[tuple[Call, Any, BaseException | None]] = []  # answers that were read but not published yet
        # Calls whose slots are free while their answers are unpacked. The thread that removes a call reports it as
        # abandoned if its caller has given it up.
        self._unpacking: dict[Call, None] = {}

    def arrived(self, response: Response, reader: Call | None = None) -> None:
        """As `Receiver.arrived`. In the main thread, signal handlers run only after everything is read."""
        if reader is not None:  # the waiting caller's thread defers signals already
            self._take(response, reader)
            return
        with DeferredSignals():
            self._take(response, None)

    def _take(self, response: Response, reader: Call | None) -> None:
        queue = self._queue
        queue.items.append(response)
        while queue.items and queue.try_acquire():
            try:
                self._read(reader)
            finally:
                queue.release()

    def _read(self, reader: Call | None) -> None:
        """Read all queued responses; for one thread at a time."""
        items, outstanding, sender = self._queue.items, self._outstanding, self._sender
        sender.holds_work = True
        sender.callers_released = 0
        try:
            while items:
                response = items.popleft()
                if response.number < self._expected or response.number in self._early:
                    continue  # duplicate: a signal interrupted its thread, which then left it to another
                if not self._transport.pushes:
                    with outstanding.lock:
                        outstanding.exchanges -= 1
                self._early[response.number] = response
            while outstanding.dead is None and (following := self._early.pop(self._expected, None)) is not None:
                self._expected += 1
                for reply in following.replies:
                    self._READ[reply[0]](self, *reply[1:])
            sender.send_batches()
        finally:
            sender.holds_work = False
            answers, self._answers = self._answers, []
            for call, result, error in answers:
                call.publish(result, error)
        sender.keep_exchange(reader)

    def _read_done(self, number: int, packed: Any, timing: tuple[float, float] | None = None) -> None:
        call = self._outstanding.calls.get(number)
        if call is None:  # `stop` has ended it
            return
        _set_times(call, timing)
        if timing is not None and self._transport.pushes:
            self._sender.note_run_time(call.method.index, timing[1])
        stream = self._outstanding.streams.get(number)
        if (stream is None or stream.idle) and is_quick(packed):
            self._answer(number, call, *read(packed, call.owner.service, call.method.name))
        else:
            self._answer_later(number, call, partial(read, packed, call.owner.service, call.method.name))

    def _read_failed(
        self,
        number: int,
        packed: Any,
        timing: tuple[float, float] | None = None,
        uncounted: bool = False,  # noqa: FBT001, FBT002 - as in the reply
    ) -> None:
        call = self._outstanding.calls.get(number)
        if call is not None:
            _set_times(call, timing)
            if uncounted:
                call.uncounted = True
            self._answer_later(number, call, lambda: (None, unpack_error(packed)))

    def _answer(self, number: int, call: Call, result: Any, error: BaseException | None) -> None:
        call.answered = True  # first, so that a thread that gives it up now does not count it too
        self._outstanding.forget(number)
        sent = self._outstanding.units.pop(number, None)
        wanted = call.claim_outcome()
        if not wanted:
            call.owner.abandoned_ended(call)
        if sent is not None:  # free the slot before waking the caller
            self._events.freed(sent.work)
        if not wanted:
            return
        self._sender.callers_released += call.awaited
        self._answers.append((call, result, error))

    def _answer_later(self, number: int, call: Call, unpack: Callable[[], tuple[Any, BaseException | None]]) -> None:
        """
        Free the slot of *call* now, and end the call when *unpack* has returned its outcome.

        Its deadline may pass before that.
        """
        self._unpacking[call] = None  # before `answered`, so that `drop_answer` finds it
        call.answered = True
        stream = self._outstanding.streams.get(number)
        self._outstanding.forget(number)
        sent = self._outstanding.units.pop(number, None)
        if call.settled():
            self.drop_answer(call)
        if sent is not None:
            self._events.freed(sent.work)

        def end() -> None:
            result, error = unpack()
            try_again = call.owner.failed(call, error) if call.uncounted and error is not None else None
            if try_again is not None:
                self._unpacking.pop(call, None)
                try_again()
            elif call.claim_outcome():
                self._unpacking.pop(call, None)
                if call.uncounted:
                    call.owner.count_failed(call)
                call.publish(result, error)

        if stream is None:
            CALLBACKS.run(end)
        else:
            stream.run_after_items(end)

    def drop_answer(self, call: Call) -> None:
        """Note that nobody wants the answer of *call*; if it is being unpacked, report the call as abandoned."""
        try:
            del self._unpacking[call]
        except KeyError:
            return
        call.owner.abandoned_ended(call)

    def _read_item(self, number: int, packed: Any, queue_s: float | None = None) -> None:
        call = self._outstanding.calls.get(number)
        if call is not None and queue_s is not None:
            call.began = call.since + queue_s
        stream = self._outstanding.streams.get(number)
        if stream is not None:
            stream.deliver(packed)

    def _read_gave_up(self, number: int, packed: Any, outcome: int) -> None:
        call = self._outstanding.calls.get(number)
        if call is not None:
            self.counted_by_replica = call
            try:
                call.give_up(unpack_error(packed), outcome)
            finally:
                self.counted_by_replica = None

    def _read_ended(self, number: int, seconds: float) -> None:
        sent = self._outstanding.units.pop(number, None)
        if sent is None:
            return
        if sent.bundle is not None:
            self._sender.size_next_bundle(sent.work.method.index, len(sent.bundle), seconds)
        for each in sent.numbers:
            call = self._outstanding.forget(each)
            if call is not None and call.settled():
                call.owner.abandoned_ended(call)
        self._events.freed(sent.work)

    def _read_refused(self, number: int, stuck: bool) -> None:  # noqa: FBT001 - as in the reply
        sent = self._outstanding.units.pop(number, None)
        if sent is None:
            return
        calls = [call for each in sent.numbers if (call := self._outstanding.forget(each)) is not None]
        with self._outstanding.lock:
            self._outstanding.refused_slots += 1
        if sent.bundle is not None:  # first, so that the oldest call ends up at the head of the queue
            self._events.returned(calls[1:])
        self._events.refused(sent.work, stuck=stuck)

    def _read_returned(self, unit: int, numbers: Sequence[int]) -> None:
        units = self._outstanding.units
        sent = units.get(unit)
        if sent is None or sent.bundle is None:
            return
        calls = []
        for number in numbers:
            del sent.bundle[number]
            if number not in self._outstanding.given_up:  # else the replica got GIVE_UP, and counts the call
                self._sender.notify_later((protocol.TAKEN_BACK, number))
            call = self._outstanding.forget(number)
            if call is not None:
                calls.append(call)
        units[unit] = sent._replace(numbers=tuple(sent.bundle))
        self._events.returned(calls)

    def _read_starting(self, number: int) -> None:
        self._outstanding.unstarted.discard(number)

    def _read_room(self, number: int) -> None:
        with self._outstanding.lock:
            number = min(number, self._outstanding.refused_slots)
            self._outstanding.refused_slots -= number
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
        protocol.STARTING: _read_starting,
    }


def _set_times(call: Call, timing: tuple[float, float] | None) -> None:
    """Set the times of *call* on this process's clock, from the durations that its replica measured."""
    if timing is not None:
        queue_s, run_s = timing
        call.began = call.since + queue_s
        call.ended = call.began + run_s
