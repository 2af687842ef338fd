"""
One service's queue: holds the calls that wait for a slot, and limits their number.

Calls wait in *backlogs*. All lanes share one; if the balancer binds calls to its choice, each lane has its own.
`queue_size` calls may wait; each takes a token of *room*. A call without room is handled by the overload policy:

* `reject`: the call is refused.
* `block`: the call is *parked*. It joins its backlog like any other, and its caller waits for room.
* The queue *sheds*: a waiting call ends, and the new call takes its place.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.errors import CallTimeoutError, OverloadedError
from sage_plugins.resilience.admission import Admission
from sage_plugins.resilience.priorities import RankedQueue, rank
from sage_plugins.routing.lane import remove
from sage_plugins.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.routing.lane import Lane, Lanes

__all__ = ["LOWEST", "OLDEST", "Queue"]

#: Which call a full queue sheds: the one that has waited longest, or the one that would start last.
OLDEST: Final = "shed_oldest"
LOWEST: Final = "priority"

#: Seconds between two searches of a full queue for expired calls; a search looks at every waiting call.
_SWEEP_EVERY_S: Final = 0.05

#: Tokens of room made at a time, so that a limit of a million waiting calls costs nothing until they wait.
_PORTION: Final = 64

_WHAT_TO_DO: Final = "Call again later, raise `timeout`, or add threads or replicas"


class Queue:
    """
    The waiting calls of one service.

    It adds calls to backlogs, removes them, and keeps the limit exact. It sends nothing: the thread that adds a call
    then looks for a free slot.

    Attributes:
        service: Its name.
        size: Number of calls that may wait; parked calls do not count.
        shared: The backlog of all lanes, oldest first. Under a binding balancer, only for calls that find no open lane.
        unbound: Under a binding balancer, the waiting calls that any lane may take, oldest first. A call joins it
            before its backlog.
        parked: The waiting calls that hold no room, oldest first.
        room: One token for each free place, except those in `unminted`.
        unminted: Number of tokens not made yet; guarded by the lanes' lock, as `returning`.
        returning: Number of dead replicas whose calls come back here, and of calls between two attempts.
        admission: Estimates which calls cannot be answered in time; None if all may wait.
        sheds: Which call ends when the queue is full: `OLDEST`, `LOWEST`, or "" for none.
        ordered: Whether calls start in the order of their priority.
        sends_ahead: Whether calls may leave the queue before they have a slot, see `prefetch`.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the settings of one service
        self,
        lanes: Lanes,
        clock: Clock,
        size: int,
        service: str,
        overloaded: Callable[[str], None],
        refused: Callable[[int, str], None],
        sheds: str,
        *,
        late: bool,
    ) -> None:
        """
        Make an empty queue.

        Args:
            lanes: The lanes for which calls wait.
            clock: For deadlines.
            size: Number of calls that may wait.
            service: Its name, for messages.
            overloaded: Called with the reason of the first refusal after a calm period.
            refused: As for `Router`.
            sheds: As the attribute.
            late: Whether calls that cannot be answered in time are refused.
        """
        self._lanes = lanes
        self.service = service
        self.admission = Admission() if late else None
        self.sheds = sheds
        self.ordered = sheds == LOWEST
        self.sends_ahead = not self.ordered  # a later call with a higher priority could not overtake one sent ahead
        self._refused = refused
        self._overloaded = overloaded
        self._clock = clock
        self.size = size
        self.shared: deque[Call] = self._new_backlog()
        self.unbound: dict[Call, None] = {}
        self.parked: deque[Call] = deque()
        self.room: list[None] = [None] * min(size, _PORTION)
        self.unminted = size - len(self.room)
        self.returning = 0
        self._unserved: tuple[deque[Call], ...] = ()  # backlogs that no lane serves any more, until they are empty
        self._sweep_at = -inf  # no search for expired calls before this time

    # -- room --------------------------------------------------------------------------------------------------------

    def take_room(self) -> bool:
        """Take a place in the queue; False if there is none."""
        try:
            self.room.pop()
        except IndexError:
            if self.unminted == 0:
                return False
            with self._lanes.lock:
                portion = min(self.unminted, _PORTION)
                self.unminted -= portion
                self.room.extend([None] * portion)
            return self.take_room()
        return True

    def leave(self, call: Call) -> None:
        """Free the place of a call that was removed from its backlog."""
        self.unbound.pop(call, None)
        if call.parked and remove(self.parked, call):
            call.admit()
            return
        # It was not parked, or another thread has just admitted it. Either way it holds a token.
        self.room.append(None)
        if self.parked:
            self.admit_parked()

    def park(self, call: Call) -> None:
        """Note that the call, which is about to join a backlog, also waits for room."""
        call.parked = True
        self.parked.append(call)

    def admit_parked(self) -> None:
        """Give free room to the oldest parked calls."""
        while self.parked and self.take_room():
            try:
                call = self.parked.popleft()
            except IndexError:
                self.room.append(None)
            else:
                call.admit()

    def sweep(self) -> bool:
        """
        End the expired calls of a full queue, as perhaps no thread watches their deadlines; True if there were any.
        """
        now = self._clock.monotonic()
        if now < self._sweep_at:
            return False
        self._sweep_at = now + _SWEEP_EVERY_S
        expired = [call for backlog in self.backlogs() for call in list(backlog) if call.expire()]
        return bool(expired)

    def overload(self, call: Call) -> OverloadedError:
        """Return the error for *call*, for which there is no room."""
        return self._error(
            call,
            f"was not accepted: the queue is full (queue_size={self.size}). Call again later, raise `queue_size`, or "
            "add threads or replicas",
            self._seconds_to_room(),
        )

    def _seconds_to_room(self) -> float | None:
        slots = sum(lane.slots for lane in self._lanes.serving)
        return None if self.admission is None else self.admission.seconds_for(1, slots, self._clock.monotonic())

    def hopeless(self, call: Call, lane: Lane | None) -> OverloadedError | None:
        """Return the error for *call* if the calls before it, for *lane* or for all lanes, leave it too little time."""
        admission, lanes = self.admission, self._lanes.serving
        if admission is None or any(each.free for each in lanes):
            return None
        if self.sheds == OLDEST:  # calls before it may be shed, so its wait is unknown
            return None
        ours = (lane,) if lane is not None and self._lanes.binding else lanes
        backlog = self.shared if lane is None else lane.backlog
        before = backlog.before(call) if isinstance(backlog, RankedQueue) else len(backlog)
        queue = before, sum(each.slots for each in ours)
        found = admission.why_too_late(call.method.index, self._clock.monotonic(), (call.expires, call.deadline), queue)
        if found is None:
            return None
        why = (
            f"the calls ahead of it need about {found.wait:.3g} s, and it must start within "
            f"{max(0.0, found.time):.3g} s to end in time"
        )
        why = f"was not accepted: {why}"
        self._tell(admission, call, why)
        return self._error(call, f"{why}. {_WHAT_TO_DO}", max(0.0, found.wait - found.time))

    def worked(self, ended: Any) -> None:
        """Note how long *ended*, whose slot is free now, held it; only if the call came from the queue."""
        if self.admission is not None and ended.taken and ended.bundle is None:
            now = self._clock.monotonic()
            self.admission.ended(ended.method.index, now - ended.taken, now)

    def pass_over(self, call: Call) -> bool:
        """End *call*, which was removed from its backlog for a slot, if too little time is left; True if it ended."""
        admission = self.admission
        if admission is None:
            return False
        now = call.taken = self._clock.monotonic()
        if call.settled() or not admission.is_too_late(call.method.index, call.since, call.deadline, now):
            return False
        self.leave(call)
        waited, left = now - call.since, max(0.0, call.deadline - now)
        why = f"was not started: after {waited:.3g} s in the queue it has {left:.3g} s left, less than its method needs"
        self._tell(admission, call, why)
        call.give_up(
            CallTimeoutError(
                f"{self.service}.{call.method.name} {why}. {_WHAT_TO_DO}",
                stage="queue",
                service=self.service,
                method=call.method.name,
            ),
            Outcome.TIMEOUT,
            only_unstarted=True,
        )
        return True

    # -- shedding ----------------------------------------------------------------------------------------------------

    def shed_for(self, call: Call, lane: Lane | None) -> bool:
        """
        End a waiting call and let *call* join the queue in its place, as `join` does; False if no call may be shed.

        A call that has started before is never shed.
        """
        if not self.sheds or not self.size:
            return False
        with self._lanes.lock:  # so that slot recovery does not count the place as lost meanwhile
            while (victim := self._last_for(call) if self.ordered else self._oldest()) is not None:
                if any(remove(backlog, victim) for backlog in self.backlogs()):
                    break
            else:
                return False
            self.unbound.pop(victim, None)
            if victim.parked and remove(self.parked, victim):  # it returned to a full queue, and holds no room
                victim.admit()
                call.returned = True  # its caller need not wait for room
                self.park(call)
            self.join(call, lane)
        self._end_for_another(victim)
        return True

    def _oldest(self) -> Call | None:
        """Return the oldest waiting call that may be shed."""
        found = [call for backlog in self.backlogs() if (call := _first(backlog)) is not None]
        return min(found, key=lambda call: call.since, default=None)

    def _last_for(self, call: Call) -> Call | None:
        """Return the waiting call that would start last and may be shed; None if *call* itself would start last."""
        found = [last for backlog in self.backlogs() if (last := _first(backlog, backwards=True)) is not None]
        last = max(found, key=rank_of, default=None)
        return None if last is None or rank_of(last) <= rank_of(call) else last

    def _end_for_another(self, call: Call) -> None:
        """End *call*, whose place another call has taken."""
        why = "it has waited longest" if self.sheds == OLDEST else "it has the lowest priority"
        why = f"was not run: the queue is full (queue_size={self.size}), and {why}"
        what_to_do = "Call again later, raise `queue_size`, or add threads or replicas"
        error = self._error(call, f"{why} (overload: {self.sheds}). {what_to_do}", self._seconds_to_room())

        def count() -> None:
            self._refused(call.method.index, "overloaded")
            if self.admission is not None:
                self._tell(self.admission, call, why)

        call.refuse(error, count)

    def _tell(self, admission: Admission, call: Call, why: str) -> None:
        if admission.begins_overload(self._clock.monotonic()):
            self._overloaded(f"{call.method.name} {why}")

    def _error(self, call: Call, why: str, retry_after: float | None) -> OverloadedError:
        name = call.method.name
        return OverloadedError(
            f"{self.service}.{name} {why}", retry_after=retry_after, service=self.service, method=name
        )

    # -- backlogs ----------------------------------------------------------------------------------------------------

    def _new_backlog(self) -> deque[Call]:
        return RankedQueue(rank_of) if self.ordered else deque()

    def join(self, call: Call, lane: Lane | None) -> None:
        """Append a call, which has room or is parked, to the backlog of *lane*, or to the shared one."""
        if self._lanes.binding:
            self._note_unbound(call)
        backlog = self.shared if lane is None else lane.backlog
        if isinstance(backlog, tuple):  # the lane was closed after it was picked
            with self._lanes.lock:
                self.place_for(call).append(call)
            return
        backlog.append(call)
        if lane is not None and lane.backlog is not backlog:  # it was replaced meanwhile, and perhaps emptied already
            with self._lanes.lock:
                self._empty_later(backlog)

    def rejoin(self, call: Call) -> None:
        """Put an accepted call back at the head of the queue; if the queue is full, the call gets the next room."""
        if not self.take_room():
            call.parked = True
            self.parked.appendleft(call)
        with self._lanes.lock:
            self._note_unbound(call)
            self.place_for(call).appendleft(call)
        self.admit_parked()
        if call.settled():  # given up on its way back
            self.discard(call)

    def move_unbound(self, could_start: Callable[[Call, Lane], bool]) -> bool:
        """Move the oldest unbound call that could start on another lane to that lane; False if there is none."""
        lanes = self._lanes
        if not lanes.binding or not any(lane.free for lane in lanes.serving):
            return False
        with lanes.lock:  # as in `move_unserved`
            return any(
                could_start(call, lane) and self._move(call, lane)
                for call in (sorted(self.unbound, key=rank_of) if self.ordered else list(self.unbound))
                for lane in lanes.serving
            )

    def _move(self, call: Call, lane: Lane) -> bool:
        """Move a waiting call to the backlog of *lane*, which serves; False if no other lane's backlog has it."""
        if not any(remove(other.backlog, call) for other in self._lanes.serving if other is not lane):
            return False
        lane.backlog.append(call)  # type: ignore[union-attr] # a serving lane has one
        if call.settled():  # given up while it was in neither backlog
            self.discard(call)
        return True

    def discard(self, call: Call) -> None:
        """Remove an ended call from the backlog in which it waits."""
        for backlog in self.backlogs():
            if remove(backlog, call):
                self.leave(call)
                return
        # It is in no backlog. If it was taken for a slot, the thread that starts it finds that it is over. If it is on
        # its way into a backlog, the thread that puts it there discards it then.

    def place_for(self, call: Call) -> deque[Call]:
        """Return the backlog for a call that has lost its lane; under the lock."""
        while self._lanes.binding:
            lane = self._lanes.choice(call)
            if lane is None:
                break
            if isinstance(lane.backlog, deque):
                return lane.backlog
        return self.shared

    def _note_unbound(self, call: Call) -> None:
        """If any lane may take the call, which is about to join a backlog, add it to `unbound`."""
        if self._lanes.binding and not self._lanes.is_bound(call):
            self.unbound[call] = None

    def backlogs(self) -> Iterable[deque[Call] | tuple[()]]:
        """All backlogs in which calls may wait."""
        lanes = tuple(lane.backlog for lane in self._lanes.serving) if self._lanes.binding else ()
        return (self.shared, *lanes, *self._unserved)

    def oldest_wait(self) -> float:
        """Seconds for which the oldest waiting call has waited; 0 if none waits."""
        oldest = None if self.ordered else 1
        since = [call.since for backlog in self.backlogs() for call in list(backlog)[:oldest]]
        return max(0.0, self._clock.monotonic() - min(since)) if since else 0.0

    # -- when the lanes change ---------------------------------------------------------------------------------------

    def assign_backlogs(self) -> None:
        """Give each open lane the backlog from which it takes calls now; under the lock."""
        serving = frozenset(self._lanes.serving)
        for lane in self._lanes.open:
            backlog: deque[Call] | tuple[()] = ()
            if lane in serving:
                own = isinstance(lane.backlog, deque) and lane.backlog is not self.shared
                backlog = self.shared if not self._lanes.binding else lane.backlog if own else self._new_backlog()
            if backlog is not lane.backlog:
                self._empty_later(lane.backlog)
                lane.backlog = backlog

    def take_backlog(self, lane: Lane) -> None:
        """Take the backlog away from *lane*; the calls in a backlog of its own must move. Under the lock."""
        self._empty_later(lane.backlog)
        lane.backlog = ()

    def _empty_later(self, backlog: deque[Call] | tuple[()]) -> None:
        """Keep a backlog that no lane serves any more in `_unserved` until it is empty; under the lock."""
        if isinstance(backlog, deque) and backlog is not self.shared:
            self._unserved = (*(each for each in self._unserved if each and each is not backlog), backlog)

    def has_unserved(self) -> bool:
        """
        Whether calls wait in a backlog that no lane serves.

        A call gets there if its lane was just closed, if there was no lane, or if the balancer was just replaced. Its
        caller looks here after it has queued the call, so none is forgotten.
        """
        return any(self._unserved) or (self._lanes.binding and bool(self.shared))

    def move_unserved(self) -> None:
        """
        Move calls from backlogs that no lane serves to the lanes' backlogs.

        Under the lock: a service that drains must not look idle while a call is between two backlogs.
        """
        binding = self._lanes.binding
        for backlog in (*self._unserved, self.shared) if binding else self._unserved:  # the older ones first
            while backlog and (self._lanes.serving or backlog is not self.shared):
                try:
                    call = backlog.popleft()
                except IndexError:
                    break
                self._note_unbound(call)
                self.place_for(call).append(call)
                if call.settled():  # given up while it was in neither backlog
                    self.discard(call)

    # -- its state, for others ---------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Number of free places; may lag by a call."""
        return len(self.room) + self.unminted

    @property
    def waiting(self) -> int:
        """Accepted calls that wait; never more than `size`. May lag by a call."""
        while True:
            parked = len(self.parked)
            standing = sum(map(len, self.backlogs()))
            if len(self.parked) == parked:  # otherwise a call was parked or admitted between the two counts
                return max(0, standing - parked)


def rank_of(call: Call) -> float:
    """As `priorities.rank`."""
    return rank(call.options.priority, call.since)


def _first(backlog: deque[Call] | tuple[()], *, backwards: bool = False) -> Call | None:
    """Return the first call of *backlog*, or the last, that may be shed: one that has never started."""
    try:
        call = backlog[-1 if backwards else 0]
    except IndexError:
        return None
    if not call.attempts:
        return call
    calls = list(backlog)
    return next((call for call in (calls[::-1] if backwards else calls) if not call.attempts), None)
