"""Counts the slots, places and calls that a router and its replicas hold at one moment."""

from __future__ import annotations

from functools import partial
from operator import call as call_it
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sage_plugins.call.call import Call
    from sage_plugins.routing.lane import Lane

__all__ = ["Inventory"]


class Inventory:
    """
    The slots, places and calls that are held at one moment.

    Python runs no other thread inside one call of a built-in function, so all numbers are of the same moment. Slots and
    calls that a thread is passing on at that moment are not counted.

    Attributes:
        parked: Calls that wait for room.
        waiting: Calls that wait for a slot, including parked ones.
        room: Number of room tokens.
        held: Slots in use, for each lane whose replica reports them.
        free: Number of free tokens, for each lane.
        callers_left: Calls with a granted slot whose callers, which should run them, are gone.
    """

    def __init__(
        self, lanes: Sequence[Lane], room: list[None], parked: Iterable[Call], backlogs: Iterable[Iterable[Call]]
    ) -> None:
        """Count; under the lock of the lanes."""
        counts = [() if lane.holds is None else lane.holds.counts() for lane in lanes]
        found: list[Callable[[], Any]] = [
            room.__len__,
            *(lane.free.__len__ for lane in lanes),
            *(partial(list, lane.granted) for lane in lanes),
            *(count for each in counts for count in each),
            partial(list, parked),
            *(partial(list, backlog) for backlog in backlogs),
        ]
        numbers = map(call_it, found)
        taken = iter(list(numbers))
        self.room: int = next(taken)
        self.free: dict[Lane, int] = {lane: next(taken) for lane in lanes}
        granted: list[list[Call]] = [next(taken) for _ in lanes]
        sums = [sum(next(taken) for _ in each) for each in counts]
        self.parked: list[Call] = next(taken)
        self.waiting: list[Call] = [call for backlog in taken for call in backlog]
        self.callers_left: list[Call] = []
        self.held: dict[Lane, int] = {}
        for lane, calls, number in zip(lanes, granted, sums, strict=True):
            self.callers_left += [call for call in calls if call.caller_left]
            if lane.holds is not None:
                self.held[lane] = number + sum("granted" in call.__dict__ and not call.caller_left for call in calls)
