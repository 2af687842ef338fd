"""Gives back what nothing holds."""

from __future__ import annotations

import logging
from collections import Counter
from math import inf
from typing import TYPE_CHECKING, Final, TypeAlias

from sage_plugins.routing.lane import remove

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock, Timer
    from sage_plugins.routing.lane import Lane, Lanes
    from sage_plugins.routing.queue import Queue
    from sage_plugins.routing.slot_recovery.inventory import Inventory

__all__ = ["SlotRecovery"]

#: Looks in a row at which something must be missing before it counts as lost.
_LOOKS: Final = 10

#: Seconds from a suspicion to the first look, and from one look to the next.
_LOOK_EVERY_S: Final = 0.03

#: The next look comes after so many times what the last one took, at least: where very many calls wait, it takes long.
_RESTS: Final = 20

_LOG: Final = logging.getLogger("sage_plugins.slot_recovery")

#: What is missing, as the log says it.
_WORDS: Final = {
    "slot": "slot",
    "place": "place in the queue",
    "abandoned": "abandoned call that has ended",
    "ended": "ended call that was not abandoned",
    "turn": "turn of a method with a limit",
    "left": "call whose caller is gone",
    "unqueued": "call that was not queued",
    "untold": "caller who was not let in",
    "lost": "call",
}

#: By what is missing, and where: how much of it.
_Amounts: TypeAlias = "Counter[tuple[str, Lane | None, int]]"

#: What is wrong with a call, and the call.
_Calls: TypeAlias = "set[tuple[str, Call]]"


class SlotRecovery:
    """Looks, when something may have been lost, what is missing; and gives back what is missing at every look."""

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
        self._due = -inf
        self._took = 0.0  # seconds of the last look
        self._timer: Timer | None = None
        self._suspected = -inf
        self._missing: list[Call] = []  # whose callers wait without knowing what for
        # Guarded by the lock of the lanes: slots that were given back, and what the looks in a row have found.
        self._given: Counter[Lane] = Counter()
        self._began = -inf
        self._looks_needed = _LOOKS
        self._looks = 0
        self._asked: list[Call] = []  # those of the missing calls that were known when the first look began
        self._amounts: _Amounts = Counter()
        self._calls: _Calls = set()

    def suspect_loss_of(self, call: Call) -> None:
        """As `suspect`, for a call that waits for a slot and may be what was lost."""
        self._missing.append(call)
        self.suspect()

    def suspect(self) -> None:
        """Look soon, on the clock's thread, whether something was lost; from any thread, and at little cost."""
        now = self._suspected = self._clock.monotonic()
        if now >= self._due:  # else somebody looks then
            with self._lanes.lock:
                self._look_later(now)

    def _look_later(self, now: float) -> None:
        """Look some time after *now*; under the lock."""
        if now >= self._due:
            self._due = now + max(_LOOK_EVERY_S, _RESTS * self._took)
            self._timer = self._clock.call_at(self._due, self.look)

    def close(self) -> None:
        """Look no more for what was suspected so far."""
        with self._lanes.lock:
            self._looks, self._suspected = 0, -inf
            if self._timer is not None:
                self._timer.cancel()

    def look(self) -> None:
        """Look once; give back what was missing at this look and at all before it, if they were enough."""
        from sage_plugins.routing.slot_recovery.inventory import Inventory  # few services need it

        now = self._clock.monotonic()
        with self._lanes.lock:
            lanes = [lane for lane in (*self._lanes.open, *self._lanes.closed) if not lane.dead]
            if not self._looks:
                self._began = now
                self._asked, self._missing = self._missing, []
            inventory = Inventory(lanes, self._queue.room, self._queue.parked, self._queue.backlogs())
            amounts, calls = self._missing_slots(inventory), self._lost_calls(inventory)
            self._amounts = self._amounts & amounts if self._looks else amounts
            self._calls = self._calls & calls if self._looks else calls
            self._looks += 1
            found: _Amounts = Counter()
            lost: _Calls = set()
            if self._looks >= self._looks_needed or not (self._amounts or self._calls):
                found, lost = self._amounts, self._calls
                self._give_back(found, lost)
                self._looks, self._asked, self._calls = 0, [], set()
                self._given = Counter({lane: self._given[lane] for lane in lanes})
            self._took = self._clock.monotonic() - now
            if self._looks or self._suspected > self._began:
                self._look_later(now)
        self._tell(found, lost)
        for kind, call in lost:
            if kind == "left":  # its slot was given back
                call.abandon()
            elif kind == "lost":
                self._again(call)
        self._queue.admit_parked()
        self._match()
        for lane in lanes:
            if lane.holds is not None:
                lane.holds.nudge()

    def _tell(self, found: _Amounts, lost: _Calls) -> None:
        counts = Counter(kind for kind, _ in lost)
        for (kind, _, _), number in found.items():
            counts[kind] += number
        del counts["surplus"]  # it was told when it was given back
        if counts:
            _LOG.warning(
                "service %s: gave back what an exception, a strategy or a target had lost: %s",
                self._queue.service,
                ", ".join(f"{number} x {_WORDS[kind]}" for kind, number in counts.items()),
            )

    def _missing_slots(self, inventory: Inventory) -> _Amounts:
        """Slots, and places in the queue, that are neither free nor held; and what counts more than there are."""
        queue = self._queue
        with_place = set(inventory.waiting) - set(inventory.parked)
        amounts: _Amounts = Counter()
        amounts["place", None, 0] = queue.size - queue.unminted - inventory.room - len(with_place)
        for lane, held in inventory.held.items():
            taken = lane.slots - lane.withdrawn - inventory.free[lane]
            open_batches = 0 if lane.methods is None else len(lane.methods.open)
            amounts["slot", lane, 0] = lost = taken - held - open_batches
            taken -= max(lost, 0)
            amounts["surplus", lane, 0] = min(-taken, self._given[lane])  # somebody had them in their hands after all
            amounts["abandoned", lane, 0] = lane.abandoned - max(taken, 0)
            amounts["ended", lane, 0] = -lane.abandoned
            if lane.methods is not None:
                for method, number in lane.methods.running.items():
                    amounts["turn", lane, method] = number - max(taken, 0)
        return +amounts

    def _lost_calls(self, inventory: Inventory) -> _Calls:
        """Calls that nobody has, or that are half in the queue."""
        waiting, parked = set(inventory.waiting), set(inventory.parked)
        known = {*waiting}
        for lane in inventory.free:
            if lane.methods is not None:
                known.update(call for batch in lane.methods.open.values() for call in batch.calls)
        return {
            *(("left", call) for call in inventory.left),
            *(("unqueued", call) for call in parked - waiting),  # its caller never came to put it into a backlog
            *(("untold", call) for call in waiting - parked if call.parked),  # it has its place, and does not know
            *(("lost", call) for call in self._asked if call not in known and _nobody_has(call, inventory)),
        }

    def _give_back(self, amounts: _Amounts, calls: Collection[tuple[str, Call]]) -> None:
        """Give back what was lost; under the lock."""
        for (kind, lane, method), number in amounts.items():
            if lane is None:
                self._queue.room.extend([None] * number)
            elif kind == "slot":
                lane.free.extend([None] * number)
                self._given[lane] += number
            elif kind == "surplus":
                del lane.free[:number]
                self._given[lane] -= number
            elif kind == "turn":
                lane.methods.running[method] -= number
            else:
                lane.abandoned += number if kind == "ended" else -number
        for kind, call in calls:
            if kind == "left":
                call.take_grant()
            elif kind == "unqueued":
                remove(self._queue.parked, call)
                call.admit()
            elif kind == "untold":
                call.admit()


def _nobody_has(call: Call, inventory: Inventory) -> bool:
    return not (call.over() or call.pauses or "granted" in call.__dict__) and (
        call.lane is None or inventory.held.get(call.lane, 1) == 0
    )
