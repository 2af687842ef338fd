"""The units that a caller has sent, each with its calls for one slot, and the producer's end of a stream."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_remote.link import protocol
from sage_plugins.call.batch import Batch
from sage_plugins.call.current import current_call
from sage_plugins.call.stream import Channel
from sage_plugins.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sage_deploy_remote.link.serving.callers import Mailbox
    from sage_deploy_remote.link.serving.server import ReplicaServer
    from sage_deploy_remote.payloads.payload import Payload
    from sage_plugins.call.call import Call
    from sage_plugins.interfaces import Work

__all__ = ["BatchUnit", "CallGroup", "StreamProducer", "end_slots"]

#: Seconds until calls that were sent ahead and have not started go back, because the call before them takes long.
_GIVE_BACK_AFTER_S: Final = 0.01

#: Seconds that answers wait to leave together while quick calls run.
_LINGER_S: Final = 0.0005


class CallGroup:
    """
    The calls of a unit that are answered together, or that run in turn.

    Reports that the unit has ended when its slot is free and all its calls are answered, whichever comes last.

    Attributes:
        events_left: Number of events still to come: the answers, and the free slot.
        waiting: Calls that run after the current one. The thread that takes one out decides what happens to it.
        due: `monotonic()` after which waiting calls go back to their caller.
        is_ending: Whether all answers are about to come, followed by the end of the unit.
        reports_starts: As `protocol.Unit.reports_starts`.
    """

    def __init__(self, mailbox: Mailbox, id: int, calls: int, *, reports_starts: bool = False) -> None:
        self.reports_starts = reports_starts
        self.events_left = calls + 1
        self.waiting: deque[Call] = deque()
        self.is_ending = False
        self._begun = self._last_sent_at = time.monotonic()
        self.due = self._begun + _GIVE_BACK_AFTER_S
        self._mailbox = mailbox
        self._id = id
        self._lock = threading.Lock()

    def count_event(self) -> None:
        """Count one answer as given, or the slot as free."""
        with self._lock:
            self.events_left -= 1
            last = self.events_left == 0
        if last:
            self._mailbox.end_unit((protocol.ENDED, self._id, time.monotonic() - self._begun))

    def next(self) -> Call | None:
        """
        Return the call to run next, None if none is left.

        If starts are reported, the caller is certain to learn of this start.
        """
        try:
            call = self.waiting.popleft()
        except IndexError:
            return None
        if self.reports_starts:
            report: Any = call.report  # type: ignore[attr-defined] # a `report.ServedCall`
            if not self._mailbox.record_start(report.id):  # the caller might then run it again
                self.waiting.appendleft(call)
                self.give_back()
                return None
        return call

    def delays_answer(self, call: Call, quick: set[int]) -> bool:
        """
        Return whether the answer to *call* waits for the next call's answer.

        This is so if the next call is quick and starts now, because sending costs as much as a short method. If that
        call takes long after all, the answer leaves when `due` has passed.

        Args:
            call: The call that has run.
            quick: Indices of the methods that took no time when they last ran.
        """
        if not self._mailbox.sends_at_once:
            return False
        try:
            following = self.waiting[0]
        except IndexError:
            return False
        if call.ended - self._last_sent_at < _LINGER_S and following.method.index in quick:
            return True
        self._last_sent_at = call.ended
        return False

    def give_back(self) -> None:
        """Return the waiting calls to their caller, which may have another free slot for them."""
        returned: list[int] = []
        while self.waiting:
            try:
                call = self.waiting.pop()
            except IndexError:
                break
            report: Any = call.report  # type: ignore[attr-defined] # a `report.ServedCall`
            report.returned = True  # first: if its caller gives it up right now, that is counted
            if call.claim() and call.claim_outcome():
                returned.append(report.id)
            else:
                report.returned = False
        if returned:
            self._mailbox.post((protocol.RETURNED, self._id, returned[::-1]))
        for _ in returned:
            self.count_event()


class BatchUnit(CallGroup):
    """
    A batch's calls. Calls whose arguments are late run after the others, with all that have arrived by then.

    Attributes:
        present: Calls that can run.
        late: Number of calls whose arguments have not arrived.
    """

    def __init__(self, mailbox: Mailbox, id: int, calls: int, *, reports_starts: bool = False) -> None:
        super().__init__(mailbox, id, calls, reports_starts=reports_starts)
        self.present: list[Call] = []  # like `late`, guarded by _lock
        self.late = 0
        self._is_running = False
        self._slot_is_free = False

    def arrived(self, call: Call) -> None:
        """Note that the arguments of *call* have arrived, so that it can run."""
        with self._lock:
            self.late -= 1
            self.present.append(call)

    def late_call_ended(self) -> None:
        """Note that a late call will never run."""
        with self._lock:
            self.late -= 1

    def run_ended(self) -> None:
        """Note that the calls that ran have ended."""
        with self._lock:
            self._is_running = False

    def take(self) -> list[Call] | None:
        """
        Return the calls to run together now, perhaps none.

        Return None once, when no more calls will come.
        """
        with self._lock:
            if self._is_running or self._slot_is_free:
                return []
            if self.present:
                self._is_running = True
                calls, self.present = self.present, []
                return calls
            self._slot_is_free = self.is_ending = not self.late
            return None if self._slot_is_free else []


class StreamProducer(Channel):
    """The producer's end of a stream to another process; it holds a place for each item not acknowledged yet."""

    __slots__ = ("_first", "_id", "_mailbox", "_pack")

    def __init__(self, mailbox: Mailbox, id: int, pack: Callable[[Any], Payload]) -> None:
        super().__init__()
        self._pack = pack
        self._mailbox = mailbox
        self._id = id
        self._first = True

    def deliver(self, item: Any) -> None:
        """Send *item*, and keep its place."""
        packed = self._pack(item)
        super().deliver(None)  # first: once posted, the item may be acknowledged at any moment
        call = current_call() if self._first else None  # the call whose generator yields the item
        self._first = False
        self._mailbox.post((protocol.ITEM, self._id, packed, *(() if call is None else (call.began - call.since,))))

    def acknowledge(self, number: int) -> None:
        """Note that *number* more items were read, so that there is room for others."""
        for _ in range(number):
            self.take()


def end_slots(server: ReplicaServer, works: Iterable[Work]) -> None:
    """Tell callers that the slots of *works* are free: these ended before a worker fetched them."""
    for work in works:
        following = server.work_ended(work)
        while following is not None:
            for call in following.calls if isinstance(following, Batch) else (following,):
                call.give_up(call.stopped_error(server.id, server.node), Outcome.STOPPED)
            following = server.work_ended(following)
