"""Gives back what nothing holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sage_plugins.routing.lane import remove

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock, Timer
    from sage_plugins.routing.healing.census import Census
    from sage_plugins.routing.lane import Lane, Lanes
    from sage_plugins.routing.queue import Queue

__all__ = ["Healing"]

#: Seconds from a suspicion to the look, and from one look to the next while somebody is in the middle of something.
_LOOK_AFTER_S: Final = 0.1


class Healing:
    """Looks, when something may have been lost, what is held; and gives back what is not."""

    def __init__(
        self,
        lanes: Lanes,
        queue: Queue,
        clock: Clock,
        *,
        again: Callable[[Call], None],
        match: Callable[[], None],
    ) -> None:
        """
        Suspect nothing.

        Args:
            lanes: Their slots.
            queue: Its places and calls.
            clock: Says when to look.
            again: Queues a call again that waits nowhere, or ends one that has no outcome.
            match: Tells who waits for slots that there may be some.
        """
        self._clock = clock
        self._lanes = lanes
        self._queue = queue
        self._again = again
        self._match = match
        self._due = 0.0
        self._timer: Timer | None = None
        self._missing: list[Call] = []  # whose callers wait without knowing what for
        self._ending: set[Call] = set()  # those of them that had an outcome at the last look, and had not ended

    def suspect_loss_of(self, call: Call) -> None:
        """As `suspect`, for a call that waits for a slot and may be what was lost."""
        self._missing.append(call)
        self.suspect()

    def suspect(self) -> None:
        """Look soon, on the clock's thread, whether something was lost; from any thread, and at little cost."""
        now = self._clock.monotonic()
        if now >= self._due:  # else somebody looks then
            self._look_later(now)

    def _look_later(self, now: float) -> None:
        self._due = now + _LOOK_AFTER_S
        self._timer = self._clock.call_at(self._due, self.look)

    def close(self) -> None:
        """Look no more for what was suspected so far."""
        if self._timer is not None:
            self._timer.cancel()

    def look(self) -> None:
        """Give back what nothing holds, or look again later if that cannot be told yet."""
        from sage_plugins.routing.healing.census import Census  # few services need it

        with self._lanes.lock:
            lanes = [lane for lane in (*self._lanes.open, *self._lanes.closed) if not lane.dead]
            census = Census(lanes, self._queue.room, self._queue.parked, self._queue.backlogs())
            lost: list[Call] = []
            if census.quiet:
                for lane, held in census.held.items():
                    self._heal_lane(lane, held, census.free[lane])
                self._heal_queue(census)
                lost = self._find_lost(census)
        if not census.quiet:
            self._look_later(self._clock.monotonic())
            return
        for call in lost:
            self._again(call)
        self._queue.admit_parked()
        self._match()
        for lane in lanes:
            if lane.holds is not None:
                lane.holds.nudge()

    @staticmethod
    def _heal_lane(lane: Lane, held: int, free: int) -> None:
        """Give back the slots of *lane* that are neither free nor held, and what else is counted of those."""
        open_batches = () if lane.methods is None else tuple(lane.methods.open)
        held += len(open_batches)
        lost = lane.slots - lane.withdrawn - free - held
        lane.abandoned = min(max(lane.abandoned, 0), held)
        if lane.methods is not None:
            running = lane.methods.running
            running.update({method: held for method, number in running.items() if number > held})
        if lost > 0:
            lane.free.extend([None] * lost)

    def _heal_queue(self, census: Census) -> None:
        """Give back places that no call has, and make calls that are half in the queue all or none of it."""
        queue = self._queue
        waiting, parked = set(census.waiting), set(census.parked)
        for call in parked - waiting:  # its caller never came to put it into a backlog
            remove(queue.parked, call)
            call.admit()
        for call in waiting - parked:
            if call.parked:  # it has got its place, and was not told
                call.admit()
        lost = queue.size - queue.unminted - census.room - len(waiting - parked)
        if lost > 0:
            queue.room.extend([None] * lost)

    def _find_lost(self, census: Census) -> list[Call]:
        """Those of the missing calls that nobody has."""
        missing, self._missing = self._missing, []
        known = {*census.waiting}
        for lane in census.free:
            if lane.methods is not None:
                known.update(call for batch in lane.methods.open.values() for call in batch.calls)
        lost = [
            call
            for call in dict.fromkeys(missing)
            if call not in known
            and not call.over()
            and "granted" not in call.__dict__
            and (call.lane is None or census.held.get(call.lane, 1) == 0)
        ]
        # Somebody may be about to end one whose outcome is decided: only the next look tells.
        ending = {call for call in lost if call.settled()}
        unsure, self._ending = ending - self._ending, ending
        if unsure:
            self._missing += unsure
            self._look_later(self._clock.monotonic())
        return [call for call in lost if call not in unsure]
