"""What a caller has sent to be run in one slot, and the producer's end of a stream whose consumer is elsewhere."""

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

#: Seconds after which what was sent ahead and has not started goes back: the call before it takes long.
_GIVE_BACK_AFTER_S: Final = 0.01

#: Seconds for which answers are held back to leave together, while calls run that take less.
_LINGER_S: Final = 0.0005


class CallGroup:
    """
    The calls of a unit that are answered together, or that run one after the other.

    Says that the unit has ended, once its slot is free and all its calls are answered, whichever comes last.

    Attributes:
        open: What is still to come: the answers, and the slot.
        waiting: Calls that run after the one that runs; whoever takes one decides what becomes of it.
        due: `monotonic()` after which those that still wait are returned.
        ends: Whether all its answers are about to come, and then its end.
        told: As `protocol.Unit.told`.
    """

    def __init__(self, mailbox: Mailbox, id: int, calls: int, *, told: bool = False) -> None:
        self.told = told
        self.open = calls + 1
        self.waiting: deque[Call] = deque()
        self.ends = False
        self._begun = self._said = time.monotonic()
        self.due = self._begun + _GIVE_BACK_AFTER_S
        self._mailbox = mailbox
        self._id = id
        self._lock = threading.Lock()

    def one_over(self) -> None:
        """One answer has been given, or the slot is free."""
        with self._lock:
            self.open -= 1
            last = self.open == 0
        if last:
            self._mailbox.end((protocol.ENDED, self._id, time.monotonic() - self._begun))

    def next(self) -> Call | None:
        """The call that runs next, None if none is left. Its caller knows that it starts, if that is to be told."""
        try:
            call = self.waiting.popleft()
        except IndexError:
            return None
        if self.told:
            report: Any = call.report  # type: ignore[attr-defined] # a `report.ServedCall`
            if not self._mailbox.tell_start(report.id):  # else it could run twice
                self.waiting.appendleft(call)
                self.give_back()
                return None
        return call

    def holds_back(self, call: Call, quick: set[int]) -> bool:
        """
        Whether the answer to *call* waits for that of the next one, which is about to start and takes no time.

        Sending costs as much as a short method. If the next one takes long after all, the answer leaves when `due`.

        Args:
            call: Has run.
            quick: Indices of the methods that took no time when they ran last.
        """
        if not self._mailbox.sends_at_once:
            return False
        try:
            following = self.waiting[0]
        except IndexError:
            return False
        if call.ended - self._said < _LINGER_S and following.method.index in quick:
            return True
        self._said = call.ended
        return False

    def give_back(self) -> None:
        """Return the calls that still wait to their caller, who may have another slot for them."""
        returned: list[int] = []
        while self.waiting:
            try:
                call = self.waiting.pop()
            except IndexError:
                break
            report: Any = call.report  # type: ignore[attr-defined] # a `report.ServedCall`
            report.returned = True  # first: its caller may be giving it up this moment, and then that is counted
            if call.claim() and call.claim_outcome():
                returned.append(report.id)
            else:
                report.returned = False
        if returned:
            self._mailbox.post((protocol.RETURNED, self._id, returned[::-1]))
        for _ in returned:
            self.one_over()


class BatchUnit(CallGroup):
    """
    The calls of a batch; those whose arguments come later run after the others, with whatever has come by then.

    Attributes:
        present: Calls that can run.
        late: How many cannot yet.
    """

    def __init__(self, mailbox: Mailbox, id: int, calls: int, *, told: bool = False) -> None:
        super().__init__(mailbox, id, calls, told=told)
        self.present: list[Call] = []  # guarded by _lock, as the next
        self.late = 0
        self._runs = False
        self._free = False

    def arrived(self, call: Call) -> None:
        """A late one can run."""
        with self._lock:
            self.late -= 1
            self.present.append(call)

    def late_over(self) -> None:
        """A late one never will."""
        with self._lock:
            self.late -= 1

    def run_over(self) -> None:
        """What ran has ended."""
        with self._lock:
            self._runs = False

    def take(self) -> list[Call] | None:
        """The calls that are to run now, together; None, once, when there will be no more."""
        with self._lock:
            if self._runs or self._free:
                return []
            if self.present:
                self._runs = True
                calls, self.present = self.present, []
                return calls
            self._free = self.ends = not self.late
            return None if self._free else []


class StreamProducer(Channel):
    """The producer's end of a stream whose consumer is elsewhere; what it holds are items not yet acknowledged."""

    __slots__ = ("_first", "_id", "_mailbox", "_pack")

    def __init__(self, mailbox: Mailbox, id: int, pack: Callable[[Any], Payload]) -> None:
        super().__init__()
        self._pack = pack
        self._mailbox = mailbox
        self._id = id
        self._first = True

    def deliver(self, item: Any) -> None:
        """Send *item*; what is kept here is its place."""
        packed = self._pack(item)
        super().deliver(None)  # first: once it is posted it may be acknowledged at any moment
        call = current_call() if self._first else None  # the one whose generator gives the item
        self._first = False
        self._mailbox.post((protocol.ITEM, self._id, packed, *(() if call is None else (call.began - call.since,))))

    def acknowledge(self, number: int) -> None:
        """So many more have been read: there is room for others."""
        for _ in range(number):
            self.take()


def end_slots(server: ReplicaServer, works: Iterable[Work]) -> None:
    """Tell callers that the slots of *works* are free, which ended before a worker had fetched them."""
    for work in works:
        following = server.work_ended(work)
        while following is not None:
            for call in following.calls if isinstance(following, Batch) else (following,):
                call.give_up(call.stopped_error(server.id, server.node), Outcome.STOPPED)
            following = server.work_ended(following)
