"""Returns slots, places in the queue and calls that no part holds any more."""

from __future__ import annotations

import logging
from collections import Counter
from math import inf
from typing import TYPE_CHECKING, Final, TypeAlias

from sage_plugins.routing.lane import remove

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Mapping
    from collections.abc import Set as AbstractSet

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock, Timer
    from sage_plugins.routing.lane import Lane, Lanes
    from sage_plugins.routing.queue import Queue
    from sage_plugins.routing.slot_recovery.inventory import Inventory

__all__ = ["SlotRecovery"]

#: Number of looks in a row that must miss something before it counts as lost.
_LOOKS: Final = 10

#: Seconds from a suspicion to the first look, and from one look to the next.
_LOOK_EVERY_S: Final = 0.03

#: The pause between two looks is at least this many times the last look's duration, which is long if many calls wait.
_RESTS: Final = 20

_LOG: Final = logging.getLogger("sage_plugins.slot_recovery")

#: The words of the log for each kind of loss.
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

#: The number missing, by kind, lane and method.
_Amounts: TypeAlias = "Counter[tuple[str, Lane | None, int]]"

#: The kind of loss, and the call.
_Calls: TypeAlias = "set[tuple[str, Call]]"


class SlotRecovery:
    """After a suspicion, looks several times for what is missing, and returns what every look missed."""

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
        Begin with no suspicion.

        Args:
            lanes: Their slots are counted.
            queue: Its places and calls are counted.
            clock: Runs the looks.
            again: Queues again a call that waits nowhere, or ends a call that has no outcome.
            match: Gives free slots to waiting calls.
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
        self._missing: list[Call] = []  # calls that their callers have reported as perhaps lost
        # Guarded by the lanes' lock: slots that were returned, and what the looks in a row have found.
        self._given: Counter[Lane] = Counter()
        self._began = -inf
        self._looks_needed = _LOOKS
        self._looks = 0
        self._asked: list[Call] = []  # the calls that were reported before the first look began
        self._idle: Mapping[Lane, AbstractSet[tuple[Hashable, float]]] = {}  # workers that were idle at the last look
        self._amounts: _Amounts = Counter()
        self._calls: _Calls = set()

    def suspect_loss_of(self, call: Call) -> None:
        """As `suspect`, for a call that waits for a slot and may itself be lost."""
        self._missing.append(call)
        self.suspect()

    def suspect(self) -> None:
        """Look soon, on the clock's thread, whether something was lost. Safe from any thread, and cheap."""
        now = self._suspected = self._clock.monotonic()
        if now >= self._due:  # otherwise a look is already due
            with self._lanes.lock:
                self._look_later(now)

    def _look_later(self, now: float) -> None:
        """Schedule the next look after *now*; under the lock."""
        if now >= self._due:
            self._due = now + max(_LOOK_EVERY_S, _RESTS * self._took)
            self._timer = self._clock.call_at(self._due, self.look)

    def close(self) -> None:
        """Drop all suspicions so far."""
        with self._lanes.lock:
            self._looks, self._suspected = 0, -inf
            if self._timer is not None:
                self._timer.cancel()

    def look(self) -> None:
        """Look once; after enough looks, return what every one of them has missed."""
        from sage_plugins.routing.slot_recovery.inventory import Inventory  # few services need it

        now = self._clock.monotonic()
        with self._lanes.lock:
            lanes = [lane for lane in (*self._lanes.open, *self._lanes.closed) if not lane.dead]
            if not self._looks:
                self._began = now
                self._asked, self._missing = self._missing, []
                self._idle = {}
            queue = self._queue
            inventory = Inventory(lanes, queue.room, queue.parked, queue.backlogs(), self._idle)
            self._idle = inventory.idle
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
            if kind == "left":  # its slot was returned
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
        del counts["surplus"]  # it was logged when it was returned
        if counts:
            _LOG.warning(
                "service %s: recovered what an exception, a strategy or a target had lost: %s",
                self._queue.service,
                ", ".join(f"{number} x {_WORDS[kind]}" for kind, number in counts.items()),
            )

    def _missing_slots(self, inventory: Inventory) -> _Amounts:
        """Count slots and places that are neither free nor held, and by how much counters are wrong."""
        queue = self._queue
        with_place = set(inventory.waiting) - set(inventory.parked)
        amounts: _Amounts = Counter()
        amounts["place", None, 0] = queue.size - queue.unminted - inventory.room - len(with_place)
        for lane, held in inventory.held.items():
            taken = lane.slots - lane.withdrawn - inventory.free[lane]
            open_batches = 0 if lane.methods is None else len(lane.methods.open)
            amounts["slot", lane, 0] = lost = taken - held - open_batches
            taken -= max(lost, 0)
            amounts["surplus", lane, 0] = min(-taken, self._given[lane])  # a thread was passing them on after all
            amounts["abandoned", lane, 0] = lane.abandoned - max(taken, 0)
            amounts["ended", lane, 0] = -lane.abandoned
            if lane.methods is not None:
                for method, number in lane.methods.running.items():
                    amounts["turn", lane, method] = number - max(taken, 0)
        return +amounts

    def _lost_calls(self, inventory: Inventory) -> _Calls:
        """Find calls that no part holds, or whose entry into the queue was interrupted."""
        waiting, parked = set(inventory.waiting), set(inventory.parked)
        known = {*waiting}
        for lane in inventory.free:
            if lane.methods is not None:
                known.update(call for batch in lane.methods.open.values() for call in batch.calls)
        return {
            *(("left", call) for call in inventory.callers_left),
            *(("unqueued", call) for call in parked - waiting),  # its caller was interrupted before it queued the call
            *(("untold", call) for call in waiting - parked if call.parked),  # it has room, but its caller still waits
            *(("lost", call) for call in self._asked if call not in known and _nobody_has(call, inventory)),
        }

    def _give_back(self, amounts: _Amounts, calls: Collection[tuple[str, Call]]) -> None:
        """Return what was lost; under the lock."""
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
