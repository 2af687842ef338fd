"""
A router for services with methods that limit concurrent calls (`max_concurrency`) or answer calls in batches.

It takes its lock for every call and every freed slot. A plain `Router` does not, so only services with such methods pay
for the lock. Under the lock these rules hold:

* A lane with a free slot has no waiting call that could take it. So a call may overtake calls that wait for a *turn*,
  which is one unit of their method's `max_concurrency` on that lane.
* A batch takes one slot, and one turn of its method. A freed slot takes as many waiting calls as fit into a batch. A
  call that finds a free slot opens a batch, which waits here for others: later calls of the method on this lane join.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from sage_plugins.call.batch import Batch
from sage_plugins.call.call import Call
from sage_plugins.routing.lane import remove
from sage_plugins.routing.open_batch import OpenBatch
from sage_plugins.routing.prefetch import Prefetch
from sage_plugins.routing.router import Router

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sage_plugins.interfaces import Candidate, Work
    from sage_plugins.routing.lane import Lane
    from sage_plugins.values import MethodPlan

__all__ = ["LaneMethods", "MethodRouter"]


class LaneMethods:
    """A lane's state of the methods with limits; guarded by the router's lock."""

    __slots__ = ("open", "running")

    def __init__(self) -> None:
        self.running: dict[int, int] = {}  # by method: turns taken, if the method has a limit
        self.open: dict[int, OpenBatch] = {}  # the batch that calls of a method may join


class MethodRouter(Router):
    """A `Router` that applies `max_concurrency` and `batch` of the methods."""

    # -- the route of a call -----------------------------------------------------------------------------------------

    def _compose_single(self, lane: Lane) -> Callable[[Call], bool]:
        return lambda call: self._send(call, lane) or self._wait(call, lane)

    def _compose_balanced(self, pick: Callable[[Call], Candidate]) -> Callable[[Call], bool]:
        def route(call: Call) -> bool:
            lane: Any = pick(call)
            return self._send(call, lane) or self._wait(call, lane)

        return route

    def _send_elsewhere(self, call: Call) -> bool:
        lanes = () if self._lanes.is_bound(call) else self._lanes.serving
        return any(lane not in call.tried and self._send(call, lane) for lane in lanes)

    def _send(self, call: Call, lane: Lane) -> bool:
        """Send the call to *lane* now, or add it to the open batch there; False if neither is possible."""
        index = call.method.index
        with self._lock:
            batch = lane.methods.open.get(index)
            if batch is not None:
                call.lane = lane
                if not batch.join(call):
                    return True
                work = self._close(batch, lane)
            else:
                if not lane.free or not self._has_turn(call, lane):
                    return False
                lane.free.pop()
                if self._waits_for_others(call, lane):
                    call.lane = lane
                    lane.methods.open[index] = OpenBatch(call, self.clock, lambda batch: self._send_open(batch, lane))
                    self._turn(call.method, lane, 1)
                    return True
                work = self._start([call], lane)
        (lane.run_here or lane.send)(work)
        return True

    def _waits_for_others(self, call: Call, lane: Lane) -> bool:
        batch = call.method.batch
        may = batch is not None and batch.size > 1 and batch.wait > 0
        return may and lane.run_here is None and not self._closing.refuses

    def _fill_slots(self) -> None:
        for lane in self._lanes.serving:
            while True:
                with self._lock:
                    if not lane.free or not lane.backlog:
                        break
                    lane.free.pop()
                    found, work = self._next(lane)
                    if not found:
                        lane.free.append(None)
                        break
                if work is not None:
                    lane.send(work)

    # -- taking a slot, under the lock -------------------------------------------------------------------------------

    def _start(self, calls: list[Call], lane: Lane) -> Work:
        """Take a turn of the method for *calls*, which have a slot of *lane*; return the work to send."""
        self._turn(calls[0].method, lane, 1)
        return _work(calls, lane)

    def _close(self, batch: OpenBatch, lane: Lane) -> Work:
        """Close the open *batch* to more calls; return the work to send."""
        del lane.methods.open[batch.method.index]
        return _work(batch.close(), lane)

    def _send_open(self, batch: OpenBatch, lane: Lane) -> None:
        """Send *batch*, unless another thread has."""
        with self._lock:
            if batch not in lane.methods.open.values():
                return
            work = self._close(batch, lane)
        lane.send(work)

    def _has_turn(self, call: Call, lane: Lane) -> bool:
        most = call.method.max_concurrency
        return most is None or lane.methods.running.get(call.method.index, 0) < most

    def _could_start(self, call: Call, lane: Lane) -> bool:
        return bool(lane.free) and self._has_turn(call, lane)  # no call that waits there could use the slot

    def _has_way(self, call: Call, lane: Lane, holders: Collection[Work]) -> bool:
        most = call.method.max_concurrency
        turns = sum(holder.method is call.method for holder in holders)
        return super()._has_way(call, lane, holders) and (most is None or turns < most)

    def _turn(self, method: MethodPlan, lane: Lane, change: int) -> None:
        if method.max_concurrency is not None:
            running = lane.methods.running
            running[method.index] = running.get(method.index, 0) + change

    # -- slots that get free -----------------------------------------------------------------------------------------

    def _compose_follow(self, lane: Lane) -> Callable[[Any], Work | None]:
        lane.methods = LaneMethods()

        def follow(ended: Work | None) -> Work | None:
            with self._lock:
                if ended is not None:
                    self._turn(ended.method, lane, -1)
                    if lane.backlog and isinstance(ended, Call):  # the time of a batch says little about a single call
                        self._queue.worked(ended)
                found, following = self._next(lane)
                if not found:
                    lane.free.append(None)
            if not found:
                self._slot_is_free()  # a call may have queued since
            return following

        return follow

    def _next(self, lane: Lane) -> tuple[bool, Work | None]:
        """
        Give a slot of *lane*, whose token the caller took, to the oldest call that can use it.

        Returns:
            Whether there was a call, and the work to send; None if its caller's thread runs it.
        """
        while True:
            call = self._take_oldest(lane)
            if call is None:
                return False, None
            if lane.run_here is None:
                if self._queue.pass_over(call):
                    continue
                calls = [call, *self._companions(call, lane)]
                work = self._start(calls, lane)
                for each in calls:
                    self._queue.leave(each)
                return True, work
            self._start([call], lane)
            granted = call.grant(lane)
            self._queue.leave(call)
            if granted:
                return True, None
            self._turn(call.method, lane, -1)

    def _take_oldest(self, lane: Lane) -> Call | None:
        """Take the oldest call whose method has a turn on *lane* out of the lane's backlog."""
        return self._take_first(lane, lambda call: self._has_turn(call, lane))

    def _companions(self, call: Call, lane: Lane) -> list[Call]:
        """Take the calls that join the batch of *call* out of the lane's backlog."""
        batch = call.method.batch
        found: list[Call] = []
        while batch is not None and len(found) + 1 < batch.size:
            other = self._take_first(lane, lambda other: other.method is call.method)
            if other is None:
                break
            if other.settled():
                self._queue.leave(other)
            else:
                found.append(other)
        return found

    def _take_first(self, lane: Lane, fits: Callable[[Call], bool]) -> Call | None:
        """Take the oldest call that *fits* out of the lane's backlog; it may have ended already."""
        backlog = lane.backlog
        if not isinstance(backlog, deque):
            return None
        try:
            oldest = backlog.popleft()
        except IndexError:
            return None
        if fits(oldest):
            return oldest
        backlog.appendleft(oldest)
        if oldest.settled():  # given up while it was in no backlog
            self._queue.discard(oldest)
        # Only callers that give up remove calls without the lock, so `remove` decides who got a call.
        return next((call for call in backlog.copy() if fits(call) and remove(backlog, call)), None)

    # -- calls that are sent ahead -----------------------------------------------------------------------------------

    def _make_prefetch(self) -> Prefetch:
        return _UnlimitedPrefetch(self._lanes, self._queue, self._match)

    # -- replicas that leave -----------------------------------------------------------------------------------------

    def close_lanes(self, lanes: Collection[Lane]) -> None:
        """As `Router.close_lanes`; sends their open batches at once."""
        super().close_lanes(lanes)
        for lane in lanes:
            self._send_all_open(lane)

    def lost(self, lane: Lane, not_started: Sequence[Work], maybe: Sequence[Work], cause: BaseException) -> None:
        """As `Router.lost`, for batches and calls; calls of open batches go back to the queue, too."""
        with self._lock:
            waiting, running = _calls(not_started), _calls(maybe)
            while lane.methods.open:
                waiting += lane.methods.open.popitem()[1].close()
        super().lost(lane, waiting, running, cause)

    def refused(self, lane: Lane, work: Work, *, stuck: bool = False) -> None:
        """As `Router.refused`; returns the method's turn, and takes a batch apart into its calls."""
        with self._lock:
            self._turn(work.method, lane, -1)
            calls = _calls([work])
        if calls == [work]:
            super().refused(lane, work, stuck=stuck)
        else:
            self._losses.take_back(calls)

    def close_to_outsiders(self, why: str, watch: Callable[[], None]) -> None:
        """As `Router.close_to_outsiders`; sends open batches at once."""
        super().close_to_outsiders(why, watch)
        for lane in self._lanes.open:
            self._send_all_open(lane)

    def drain(self, why: str, on_idle: Callable[[], None]) -> None:
        """As `Router.drain`; sends open batches at once."""
        super().drain(why, on_idle)
        for lane in self._lanes.open:
            self._send_all_open(lane)

    def _send_all_open(self, lane: Lane) -> None:
        for batch in tuple(lane.methods.open.values()):
            self._send_open(batch, lane)


class _UnlimitedPrefetch(Prefetch):
    """Sends ahead only calls of methods without limits: `_next` counts the turns of the others."""

    def may_go(self, call: Call, *, told: bool) -> bool:
        limited = call.method.max_concurrency is not None or call.method.batch is not None
        return not limited and super().may_go(call, told=told)

    def _take_oldest(self, lane: Lane, most: int, *, told: bool) -> list[Call]:
        with self._lanes.lock:
            return super()._take_oldest(lane, most, told=told)


def _work(calls: list[Call], lane: Lane) -> Work:
    """Return the work to send to *lane* for *calls* of one method: the single call, or a batch."""
    for call in calls:
        call.lane = lane
    return calls[0] if calls[0].method.batch is None else Batch(calls)


def _calls(works: Sequence[Work]) -> list[Call]:
    """Return the calls of *works*, with batches taken apart."""
    found: list[Call] = []
    for work in works:
        found += work.calls if isinstance(work, Batch) else [work]
    for call in found:
        call.batch = None
    return found
