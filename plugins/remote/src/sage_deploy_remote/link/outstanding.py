"""What is between a caller's side and its replica: what was sent, and is not over."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sage_deploy_remote.link.protocol import Notice
    from sage_deploy_remote.link.stream_reading import StreamReading
    from sage_plugins.call.call import Call
    from sage_plugins.interfaces import Work

__all__ = ["Outstanding", "SentUnit", "remember", "sent_as"]

#: Of all senders of this process, by their names.
_of_senders: WeakValueDictionary[str, Outstanding] = WeakValueDictionary()  # single steps, which need no lock


def remember(sender: str, outstanding: Outstanding) -> None:
    """What *sender* has sent is found by `sent_as`, as long as *outstanding* is in use."""
    _of_senders[sender] = outstanding


def sent_as(holder: tuple[str, int]) -> Call | None:
    """
    The call of this process that holds the slot *holder*, as `protocol.CallItem.chain` has it, in another one.

    None if another process has sent it, or if it is over. Of several that were sent together, the one that runs; of a
    batch, the first.
    """
    outstanding = _of_senders.get(holder[0])
    sent = None if outstanding is None else outstanding.units.get(holder[1])
    if sent is None:
        return None
    if sent.bundle is not None:
        return next((call for call in tuple(sent.bundle.values()) if not call.settled()), None)
    work: Any = sent.work
    call: Call = getattr(work, "calls", (work,))[0]
    return call


class SentUnit(NamedTuple):
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

    def works(self, unstarted: Collection[int]) -> tuple[Sequence[Work], Sequence[Work]]:
        """What has no outcome yet, of a bundle each on its own: those not *unstarted*, and those that are."""
        if self.bundle is None:
            return ([], [self.work]) if all(number in unstarted for number in self.numbers) else ([self.work], [])
        left = [(number in unstarted, call) for number, call in self.bundle.items() if not call.settled()]
        return [call for waits, call in left if not waits], [call for waits, call in left if waits]


class Outstanding:
    """
    Calls and units that were sent and are not over, and exchanges on their way.

    Attributes:
        units: Units that hold a slot, by number.
        calls: Calls that were sent and not answered, by number.
        given_up: What was said of those among them that were given up here, by number.
        readings: Those among them that are streams, by number.
        unstarted: Numbers of those among them that have surely not started.
        lock: Guards what follows.
        exchanges: How many are on their way.
        withheld: Slots whose units were refused.
        dead: Why the replica's process is gone; None while it is not known to be.
    """

    def __init__(self) -> None:
        self.units: dict[int, SentUnit] = {}
        self.calls: dict[int, Call] = {}
        self.given_up: dict[int, Notice] = {}
        self.readings: dict[int, StreamReading] = {}
        self.unstarted: set[int] = set()
        self._number_of: dict[Call, int] = {}  # `calls`, the other way round
        self.lock = threading.Lock()
        self.exchanges = 0
        self.withheld = 0
        self.dead: BaseException | None = None

    @property
    def idle(self) -> bool:
        """Whether the replica has nothing to say."""
        return not (self.units or self.withheld)

    def is_dead(self) -> bool:
        """Whether the replica's process is gone."""
        return self.dead is not None

    def add(self, number: int, call: Call) -> None:
        """*call* is about to be sent as *number*."""
        self.calls[number] = call
        self._number_of[call] = number

    def number_of(self, call: Call) -> int | None:
        """The number of *call*; None if it was not sent, or is answered."""
        return self._number_of.get(call)

    def reading_of(self, call: Call) -> StreamReading | None:
        """The reading of *call* if it is a stream that was sent and is not over."""
        return self.readings.get(self._number_of.get(call, -1))

    def forget(self, number: int) -> Call | None:
        """The call of that number is answered, or will not be; None if that is known already."""
        call = self.calls.pop(number, None)
        if call is not None:
            self._number_of.pop(call, None)
            self.given_up.pop(number, None)
            self.unstarted.discard(number)
            reading = self.readings.pop(number, None)
            if reading is not None:
                reading.over = True
        return call

    def take_units(self) -> list[SentUnit]:
        """Give all units that hold a slot, and forget them and all calls."""
        units, self.units = self.units, {}
        self.calls.clear()
        self._number_of.clear()
        self.given_up.clear()
        self.readings.clear()
        return list(units.values())
