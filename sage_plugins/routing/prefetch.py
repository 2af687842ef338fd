"""
Sends several waiting calls ahead to one slot of a replica in another process, which runs them in turn.

`docs/design/bundles.md` says why. The first call holds the slot. The others came out of the queue and hold none.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sage_plugins.call.call import Call
    from sage_plugins.routing.lane import Lane, Lanes
    from sage_plugins.routing.queue import Queue

__all__ = ["Bundle", "Prefetch", "may_run_twice"]


def may_run_twice(call: Call) -> bool:
    """Whether the call's method, or its caller, declares it idempotent."""
    return call.options.may_run_twice(call.method)


class Bundle:
    """
    The calls that share a slot; guarded by the router's lanes' lock.

    Attributes:
        lane: Where they run.
        calls: The calls in it, including answered ones.
        abandoned: Number of calls that were given up after they were sent and may still run.
    """

    __slots__ = ("_all_abandoned", "abandoned", "calls", "lane")

    def __init__(self, lane: Lane, first: Call) -> None:
        """Make a bundle for *lane* that has only *first*, which has not been answered; `fill` must follow."""
        self.lane = lane
        self.calls = {first}
        self.abandoned = 0
        self._all_abandoned = False
        first.bundle = self

    def fill(self, calls: Collection[Call]) -> int:
        """Add *calls*, or dissolve the bundle if there are none; return the change as `count_abandoned` does."""
        if not calls:
            for call in self.calls:
                call.bundle = None
            return 0
        self.calls.update(calls)
        for call in calls:
            call.bundle = self
        return self._recount()

    def leave(self, call: Call) -> int:
        """Take *call* out of the bundle; return the change as `count_abandoned` does."""
        self.calls.discard(call)
        call.bundle = None
        return self._recount()

    def count_abandoned(self, change: int) -> int:
        """Add *change* to the abandoned calls; return by how much the number of abandoned slots changes."""
        self.abandoned += change
        return self._recount()

    def _recount(self) -> int:
        """Return 1 if only abandoned calls hold the slot now, -1 if no longer, 0 if unchanged."""
        before, now = self._all_abandoned, self.abandoned > 0 and all(call.settled() for call in self.calls)
        self._all_abandoned = now
        return now - before


class Prefetch:
    """Takes the calls that are sent ahead out of the queue."""

    def __init__(self, lanes: Lanes, queue: Queue, match: Callable[[], None]) -> None:
        self._lanes = lanes
        self._queue = queue
        self._match = match

    def take(self, lane: Lane, call: Call, most: int, *, told: bool = False) -> list[Call]:
        """As `interfaces.SlotEvents.ahead`, for the replica of *lane*."""
        if not lane.backlog or not self.may_go(call, told=told):
            return []
        # Leave a share to the other slots, which may get free meanwhile.
        lanes = (lane,) if self._lanes.binding else self._lanes.serving
        most = min(most, lane.waiting // max(1, sum(each.slots for each in lanes)))
        if most <= 0:
            return []
        with self._lanes.lock:
            if call.settled():  # it was given up, and counts as abandoned by itself
                return []
            bundle = Bundle(lane, call)
        found = self._take_oldest(lane, most, told=told)
        with self._lanes.lock:
            lane.count_abandoned(bundle.fill(found))
        return found

    def may_go(self, call: Call, *, told: bool) -> bool:
        """
        Whether *call* may be sent ahead.

        If the replica does not report starts (*told*), the call must be idempotent.
        """
        return (told or may_run_twice(call)) and self._queue.sends_ahead

    def _take_oldest(self, lane: Lane, most: int, *, told: bool) -> list[Call]:
        """Take calls from the head of the lane's backlog, up to the first that may not go, to keep their order."""
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
            if call is not oldest and not self.may_go(call, told=told):  # another thread took `oldest`
                self._put_back(call, lane)
                break
            call.lane = lane
            self._queue.leave(call)
            if not call.settled():
                found.append(call)
        return found

    def _put_back(self, call: Call, lane: Lane) -> None:
        """Put back a call that was taken out for a moment."""
        with self._lanes.lock:
            (lane.backlog if isinstance(lane.backlog, deque) else self._queue.place_for(call)).appendleft(call)
        self._match()  # a slot may have got free meanwhile
        if call.settled():  # given up while it was in no backlog
            self._queue.discard(call)
