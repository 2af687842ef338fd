"""Counts the slots, places and calls that a router and its replicas hold at one moment."""

from __future__ import annotations

from functools import partial
from operator import call as call_it
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from sage_plugins.call.call import Call
    from sage_plugins.routing.lane import Lane

__all__ = ["Inventory"]


class Inventory:
    """
    The slots, places and calls that are held at one moment.

    Python runs no other thread inside one call of a built-in function, so all numbers are of the same moment. Slots and
    calls that a thread is passing on at that moment are not counted, except those that a worker may be about to begin.

    Attributes:
        parked: Calls that wait for room.
        waiting: Calls that wait for a slot, including parked ones.
        room: Number of room tokens.
        held: Slots in use, for each lane whose replica reports them; at most this many, because an idle worker counts
            unless it was idle at the previous look too.
        idle: Idle workers of each of these lanes, each with the end of its last work.
        free: Number of free tokens, for each lane.
        callers_left: Calls with a granted slot whose callers, which should run them, are gone.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        room: list[None],
        parked: Iterable[Call],
        backlogs: Iterable[Iterable[Call]],
        idle_before: Mapping[Lane, AbstractSet[tuple[Hashable, float]]],
    ) -> None:
        """Count; under the lock of the lanes. *idle_before* is `idle` of the previous look."""
        counts = [() if lane.holds is None else lane.holds.counts() for lane in lanes]
        found: list[Callable[[], Any]] = [
            room.__len__,
            *(lane.free.__len__ for lane in lanes),
            *(partial(list, lane.granted) for lane in lanes),
            *(count for each in counts for count in each),
            *(lane.holds.workers() for lane in lanes if lane.holds is not None),
            partial(list, parked),
            *(partial(list, backlog) for backlog in backlogs),
        ]
        numbers = map(call_it, found)
        taken = iter(list(numbers))
        self.room: int = next(taken)
        self.free: dict[Lane, int] = {lane: next(taken) for lane in lanes}
        granted: list[list[Call]] = [next(taken) for _ in lanes]
        sums = [sum(next(taken) for _ in each) for each in counts]
        self.idle: dict[Lane, AbstractSet[tuple[Hashable, float]]] = {
            lane: {(worker, ended) for worker, (work, ended) in next(taken) if work is None}
            for lane in lanes
            if lane.holds is not None
        }
        self.parked: list[Call] = next(taken)
        self.waiting: list[Call] = [call for backlog in taken for call in backlog]
        self.callers_left: list[Call] = []
        self.held: dict[Lane, int] = {}
        for lane, calls, number in zip(lanes, granted, sums, strict=True):
            self.callers_left += [call for call in calls if call.caller_left]
            if lane.holds is not None:
                about_to_begin = self.idle[lane] - idle_before.get(lane, self.idle[lane])
                granted_calls = sum("granted" in call.__dict__ and not call.caller_left for call in calls)
                self.held[lane] = number + granted_calls + len(about_to_begin)
