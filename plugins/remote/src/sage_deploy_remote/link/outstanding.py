"""Records the calls and units that were sent to a replica and are not over."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sage_deploy_remote.link.incoming_stream import IncomingStream
    from sage_deploy_remote.link.protocol import Notice
    from sage_plugins.call.call import Call
    from sage_plugins.interfaces import Work

__all__ = ["Outstanding", "SentUnit", "call_holding", "register_sender"]

#: The records of all senders of this process, by sender name.
_by_sender: WeakValueDictionary[str, Outstanding] = WeakValueDictionary()  # single operations, which need no lock


def register_sender(sender: str, outstanding: Outstanding) -> None:
    """Make the work of *sender* available to `call_holding`, as long as *outstanding* is in use."""
    _by_sender[sender] = outstanding


def call_holding(holder: tuple[str, int]) -> Call | None:
    """
    Return the call of this process that holds the slot *holder* in another process.

    *holder* has the form of `protocol.CallItem.chain`. Return None if another process sent the call, or if it is over.
    Of a bundle, return the call that runs; of a batch, the first call.
    """
    outstanding = _by_sender.get(holder[0])
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
        numbers: The numbers of its calls.
        bundle: The calls by number if others were sent ahead with the first, else None.
    """

    work: Work
    numbers: Collection[int]
    bundle: dict[int, Call] | None = None

    def split_unfinished(self, unstarted: Collection[int]) -> tuple[Sequence[Work], Sequence[Work]]:
        """
        Return the work without an outcome: first what may have started, then what is in *unstarted*.

        Calls of a bundle are returned separately.
        """
        if self.bundle is None:
            return ([], [self.work]) if all(number in unstarted for number in self.numbers) else ([self.work], [])
        left = [(number in unstarted, call) for number, call in self.bundle.items() if not call.settled()]
        return [call for waits, call in left if not waits], [call for waits, call in left if waits]


class Outstanding:
    """
    Calls and units that were sent and are not over, and open exchanges.

    Attributes:
        units: Units that hold a slot, by number.
        calls: Calls that were sent and not answered, by number.
        given_up: The notices about those of `calls` that were given up here, by number.
        streams: The streams among `calls`, by number.
        unstarted: Numbers of those of `calls` that have certainly not started.
        lock: Guards the attributes below.
        exchanges: Number of open exchanges.
        refused_slots: Number of slots whose units were refused.
        dead: Why the replica's process is gone; None while it is not known to be.
    """

    def __init__(self) -> None:
        self.units: dict[int, SentUnit] = {}
        self.calls: dict[int, Call] = {}
        self.given_up: dict[int, Notice] = {}
        self.streams: dict[int, IncomingStream] = {}
        self.unstarted: set[int] = set()
        self._number_of: dict[Call, int] = {}  # the reverse of `calls`
        self.lock = threading.Lock()
        self.exchanges = 0
        self.refused_slots = 0
        self.dead: BaseException | None = None

    @property
    def idle(self) -> bool:
        """Whether the replica has nothing to say."""
        return not (self.units or self.refused_slots)

    def is_dead(self) -> bool:
        """Whether the replica's process is gone."""
        return self.dead is not None

    def add(self, number: int, call: Call) -> None:
        """Record that *call* will be sent as *number*."""
        self.calls[number] = call
        self._number_of[call] = number

    def number_of(self, call: Call) -> int | None:
        """Return the number of *call*; None if it was not sent, or was answered."""
        return self._number_of.get(call)

    def stream_of(self, call: Call) -> IncomingStream | None:
        """Return the stream of items for *call* if it was sent and is not over, else None."""
        return self.streams.get(self._number_of.get(call, -1))

    def forget(self, number: int) -> Call | None:
        """Forget the call *number*, which needs no more answer, and return it; None if it was forgotten already."""
        call = self.calls.pop(number, None)
        if call is not None:
            self._number_of.pop(call, None)
            self.given_up.pop(number, None)
            self.unstarted.discard(number)
            stream = self.streams.pop(number, None)
            if stream is not None:
                stream.has_ended = True
        return call

    def take_units(self) -> list[SentUnit]:
        """Return all units that hold a slot, and forget them and all calls."""
        units, self.units = self.units, {}
        self.calls.clear()
        self._number_of.clear()
        self.given_up.clear()
        self.streams.clear()
        return list(units.values())
