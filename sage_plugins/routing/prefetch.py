"""
Calls that are sent ahead to one slot of a replica in another process, where they run one after the other.

`docs/design/bundles.md` says why. The slot is that of the first; the others came out of the queue and hold none.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sage_plugins.call.call import Call
    from sage_plugins.routing.lane import Lane, Lanes
    from sage_plugins.routing.queue import Queue

__all__ = ["Bundle", "Prefetch", "may_run_twice"]


def may_run_twice(call: Call) -> bool:
    """Whether the call's method, or its caller, declares it idempotent."""
    return call.options.may_run_twice(call.method)


class Bundle:
    """
    What the router knows of the calls that share a slot; guarded by its lanes' lock.

    Attributes:
        lane: Where they run.
        calls: Those in it, answered ones included.
        abandoned: How many of them were given up since they were sent and may still run.
    """

    __slots__ = ("_all_abandoned", "abandoned", "calls", "lane")

    def __init__(self, lane: Lane, calls: Iterable[Call]) -> None:
        """Make a bundle of *calls*, of which none has been answered, for *lane*."""
        self.lane = lane
        self.calls = set(calls)
        self.abandoned = 0
        self._all_abandoned = False
        for call in self.calls:
            call.bundle = self

    def leave(self, call: Call) -> int:
        """*call* is on its own again; gives the change as `count_abandoned` does."""
        self.calls.discard(call)
        call.bundle = None
        return self._recount()

    def count_abandoned(self, change: int) -> int:
        """So many calls more or less are abandoned; how many slots more or less that makes."""
        self.abandoned += change
        return self._recount()

    def _recount(self) -> int:
        """See whether the slot is held by nothing but abandoned calls now."""
        before, now = self._all_abandoned, self.abandoned > 0 and all(call.settled() for call in self.calls)
        self._all_abandoned = now
        return now - before


class Prefetch:
    """Takes calls out of the queue that are sent ahead."""

    def __init__(self, lanes: Lanes, queue: Queue, match: Callable[[], None]) -> None:
        """
        Take calls of *queue*, for *lanes*.

        Args:
            lanes: Those that share the waiting calls.
            queue: Where these are.
            match: Brings waiting calls and free slots together.
        """
        self._lanes = lanes
        self._queue = queue
        self._match = match

    def take(self, lane: Lane, call: Call, most: int, *, told: bool = False) -> list[Call]:
        """As `interfaces.SlotEvents.ahead`, for the replica of *lane*."""
        if not lane.backlog or not self.may_go(call, told=told):
            return []
        # Slots that get free meanwhile are to find their share.
        lanes = (lane,) if self._lanes.binding else self._lanes.serving
        most = min(most, lane.waiting // max(1, sum(each.slots for each in lanes)))
        found = self._take_oldest(lane, most, told=told) if most > 0 else []
        if found:
            with self._lanes.lock:
                Bundle(lane, [call, *found])
        return found

    def may_go(self, call: Call, *, told: bool) -> bool:
        """
        Whether *call* may be sent ahead; unless the replica has *told*, nobody here knows then whether it has started.

        Where calls have priorities none is: one with a higher priority that comes later could not overtake it.
        """
        return (told or may_run_twice(call)) and not self._queue.ordered

    def _take_oldest(self, lane: Lane, most: int, *, told: bool) -> list[Call]:
        """Take calls that may go from the head of the lane's backlog: none overtakes another."""
        found: list[Call] = []
        backlog = lane.backlog
        while isinstance(backlog, deque) and len(found) < most:
            try:
                oldest = backlog[0]
                if not self.may_go(oldest, told=told):
                    break
                call = backlog.popleft()
            except IndexError:
                break
            if call is not oldest and not self.may_go(call, told=told):  # somebody else took the one that was looked at
                self._put_back(call, lane)
                break
            call.lane = lane
            self._queue.leave(call)
            if not call.settled():
                found.append(call)
        return found

    def _put_back(self, call: Call, lane: Lane) -> None:
        """Queue a call again that was taken out for a moment."""
        with self._lanes.lock:
            (lane.backlog if isinstance(lane.backlog, deque) else self._queue.place_for(call)).appendleft(call)
        self._match()  # a slot may have got free meanwhile
        if call.settled():  # given up meanwhile, and found nowhere
            self._queue.discard(call)
