"""
Where calls wait for a slot, and how many may.

Calls wait in *backlogs*: all lanes share one, or under a balancer that binds calls to its choice each lane has its own.
`queue_size` calls may wait; each takes a token of *room*. A call without room that may wait for it is *parked*: it
stands in its backlog like any other, and its caller waits until the queue has room for it. A queue that *sheds* has a
waiting call end instead, and the new one takes its place.
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

#: What makes room in a full queue: the call that has waited longest, or the one that would start last.
OLDEST: Final = "shed_oldest"
LOWEST: Final = "priority"

#: Seconds between two searches of a full queue for expired calls: each looks at every waiting call.
_SWEEP_EVERY_S: Final = 0.05

#: Tokens of room are minted in portions, so that a bound of a million waiting calls costs nothing until they wait.
_PORTION: Final = 64

_WHAT_TO_DO: Final = "Call again later, raise `timeout`, or add threads or replicas"


class Queue:
    """
    The waiting calls of one service.

    It puts calls into backlogs and takes them out, and keeps the bound exact. It sends nothing: whoever adds a call
    then looks whether a slot is free.

    Attributes:
        service: Name of the service.
        size: Calls that may wait, parked ones aside.
        shared: The backlog of all lanes, oldest first. Under a binding balancer only calls for which no lane is open
            wait here.
        unbound: Waiting calls of a binding balancer that any lane may take, oldest first. Each is here before it is in
            a backlog.
        parked: The waiting calls that hold no room, oldest first.
        room: A token for each place that is free; see `unminted`.
        unminted: Tokens that have not been made yet; guarded by the lanes' lock, as `returning`.
        returning: Replicas that died and whose calls are on their way back here.
        admission: Says which calls cannot be answered in time; None if all may wait.
        sheds: Which call makes room when the queue is full: `OLDEST`, `LOWEST`, or "" for none.
        ordered: Whether calls start by their priority.
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
            lanes: For which calls wait.
            clock: For deadlines.
            size: Calls that may wait.
            service: Name of the service, for messages.
            overloaded: Told why a call is turned away for the first time since a calm.
            refused: As for `Router`.
            sheds: As the attribute.
            late: Whether calls that cannot be answered in time are turned away.
        """
        self._lanes = lanes
        self.service = service
        self.admission = Admission() if late else None
        self.sheds = sheds
        self.ordered = sheds == LOWEST
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
        self._unserved: tuple[deque[Call], ...] = ()  # backlogs of lanes that were, until they are empty
        self._sweep_at = -inf  # it is not searched for expired calls before this

    # -- room --------------------------------------------------------------------------------------------------------

    def take_room(self) -> bool:
        """Take a place; False if there is none."""
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
        """Free the place of a call that was taken out of its backlog."""
        self.unbound.pop(call, None)
        if call.parked and remove(self.parked, call):
            call.admit()
            return
        # Not among the parked, or given room this very moment: either way it holds a token.
        self.room.append(None)
        if self.parked:
            self.admit_parked()

    def park(self, call: Call) -> None:
        """Have the call, which is about to join a backlog, wait for room as well."""
        call.parked = True
        self.parked.append(call)

    def admit_parked(self) -> None:
        """Give free room to the parked calls that came first."""
        while self.parked and self.take_room():
            try:
                call = self.parked.popleft()
            except IndexError:
                self.room.append(None)
            else:
                call.admit()

    def sweep(self) -> bool:
        """
        Take expired calls out of a full queue, where nobody may be watching their deadline; True if there were any.
        """
        now = self._clock.monotonic()
        if now < self._sweep_at:
            return False
        self._sweep_at = now + _SWEEP_EVERY_S
        expired = [call for backlog in self.backlogs() for call in list(backlog) if call.expire()]
        return bool(expired)

    def overload(self, call: Call) -> OverloadedError:
        """The error for *call*, for which there is no room."""
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
        """The error for *call* if those that wait before it, for *lane* or for all, take longer than it has."""
        admission, lanes = self.admission, self._lanes.serving
        if admission is None or any(each.free for each in lanes):
            return None
        if self.sheds == OLDEST:  # those that wait before it may end for it and others
            return None
        ours = (lane,) if lane is not None and self._lanes.binding else lanes
        backlog = self.shared if lane is None else lane.backlog
        before = backlog.before(call) if isinstance(backlog, RankedQueue) else len(backlog)
        queue = before, sum(each.slots for each in ours)
        found = admission.why_too_late(call.method.index, self._clock.monotonic(), (call.expires, call.deadline), queue)
        if found is None:
            return None
        why = (
            f"those that wait before it take about {found.wait:.3g} s, and it would have to start within "
            f"{max(0.0, found.time):.3g} s to end in time"
        )
        why = f"was not accepted: {why}"
        self._tell(admission, call, why)
        return self._error(call, f"{why}. {_WHAT_TO_DO}", max(0.0, found.wait - found.time))

    def worked(self, ended: Any) -> None:
        """The slot of *ended* is free: note how long it was held, if that began when it was taken from here."""
        if self.admission is not None and ended.taken and ended.bundle is None:
            now = self._clock.monotonic()
            self.admission.ended(ended.method.index, now - ended.taken, now)

    def pass_over(self, call: Call) -> bool:
        """Whether *call*, which was taken out of its backlog for a slot, has too little time left: then it ends."""
        admission = self.admission
        if admission is None:
            return False
        now = call.taken = self._clock.monotonic()
        if call.settled() or not admission.is_too_late(call.method.index, call.since, call.deadline, now):
            return False
        self.leave(call)
        waited, left = now - call.since, max(0.0, call.deadline - now)
        why = f"was not started: {waited:.3g} s in the queue left it {left:.3g} s, less than its method is seen to need"
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

    # -- calls that make room ----------------------------------------------------------------------------------------

    def shed_for(self, call: Call, lane: Lane | None) -> bool:
        """
        Have a waiting call end, and *call* wait in its stead as `join` has it; False if none may end for it.

        Calls that have started once are left alone.
        """
        if not self.sheds or not self.size:
            return False
        with self._lanes.lock:  # so that nobody thinks meanwhile that a place was lost
            while (victim := self._last_for(call) if self.ordered else self._oldest()) is not None:
                if any(remove(backlog, victim) for backlog in self.backlogs()):
                    break
            else:
                return False
            self.unbound.pop(victim, None)
            if victim.parked and remove(self.parked, victim):  # put back beyond the bound: it has no place
                victim.admit()
                call.returned = True  # accepted nevertheless
                self.park(call)
            self.join(call, lane)
        self._end_for_another(victim)
        return True

    def _oldest(self) -> Call | None:
        """The waiting call that was made first, of those that may end for another."""
        found = [call for backlog in self.backlogs() if (call := _first(backlog)) is not None]
        return min(found, key=lambda call: call.since, default=None)

    def _last_for(self, call: Call) -> Call | None:
        """The waiting call that would start last, of those that may end for another; None if *call* would."""
        found = [last for backlog in self.backlogs() if (last := _first(backlog, backwards=True)) is not None]
        last = max(found, key=rank_of, default=None)
        return None if last is None or rank_of(last) <= rank_of(call) else last

    def _end_for_another(self, call: Call) -> None:
        """End *call*, which another one has taken the place of."""
        why = "waited longest" if self.sheds == OLDEST else "has the lowest priority of those that wait"
        why = f"was not run: the queue is full (queue_size={self.size}), and of its calls it {why}"
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
        """Put a call, which has room or is parked, at the end of the backlog of *lane*, or of all."""
        if self._lanes.binding:
            self._note_unbound(call)
        backlog = self.shared if lane is None else lane.backlog
        if isinstance(backlog, tuple):  # the lane was closed since it was picked
            with self._lanes.lock:
                self.place_for(call).append(call)
            return
        backlog.append(call)
        if lane is not None and lane.backlog is not backlog:  # replaced since, and perhaps emptied already
            with self._lanes.lock:
                self._empty_later(backlog)

    def rejoin(self, call: Call) -> None:
        """Put an accepted call back at the head of the queue; if that is full, it gets the next room."""
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
        """Have the oldest call that any lane may take wait for another one, where it could start; False if none can."""
        lanes = self._lanes
        if not lanes.binding or not any(lane.free for lane in lanes.serving):
            return False
        with lanes.lock:  # for the reason given in `move_unserved`
            return any(
                could_start(call, lane) and self._move(call, lane)
                for call in (sorted(self.unbound, key=rank_of) if self.ordered else list(self.unbound))
                for lane in lanes.serving
            )

    def _move(self, call: Call, lane: Lane) -> bool:
        """Have a waiting call wait for *lane*, an open one; False if it is in no other's backlog."""
        if not any(remove(other.backlog, call) for other in self._lanes.serving if other is not lane):
            return False
        lane.backlog.append(call)  # type: ignore[union-attr] # an open one's
        if call.settled():  # given up between the two, and found nowhere
            self.discard(call)
        return True

    def discard(self, call: Call) -> None:
        """Take an ended call out of wherever it waits."""
        for backlog in self.backlogs():
            if remove(backlog, call):
                self.leave(call)
                return
        # In no backlog: it was taken for a slot, and whoever takes it up there finds that it is over; or it is on its
        # way into one, and whoever puts it there discards it then.

    def place_for(self, call: Call) -> deque[Call]:
        """The backlog that a call joins which has lost its lane; under the lock."""
        while self._lanes.binding:
            lane = self._lanes.choice(call)
            if lane is None:
                break
            if isinstance(lane.backlog, deque):
                return lane.backlog
        return self.shared

    def _note_unbound(self, call: Call) -> None:
        """Remember that the call, which is about to join a backlog, may leave it for another."""
        if self._lanes.binding and not self._lanes.is_bound(call):
            self.unbound[call] = None

    def backlogs(self) -> Iterable[deque[Call] | tuple[()]]:
        """Wherever calls wait."""
        lanes = tuple(lane.backlog for lane in self._lanes.serving) if self._lanes.binding else ()
        return (self.shared, *lanes, *self._unserved)

    def oldest_wait(self) -> float:
        """Seconds for which the oldest call has waited that is in a backlog; 0 if there is none."""
        oldest = None if self.ordered else 1
        since = [call.since for backlog in self.backlogs() for call in list(backlog)[:oldest]]
        return max(0.0, self._clock.monotonic() - min(since)) if since else 0.0

    # -- when the lanes change ---------------------------------------------------------------------------------------

    def assign_backlogs(self) -> None:
        """Have the open lanes take calls from where they wait for them now; under the lock."""
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
        """Have *lane* take no more calls; those that wait for it alone are to wait elsewhere. Under the lock."""
        self._empty_later(lane.backlog)
        lane.backlog = ()

    def _empty_later(self, backlog: deque[Call] | tuple[()]) -> None:
        """Remember a backlog that no lane serves any more, until it is empty; under the lock."""
        if isinstance(backlog, deque) and backlog is not self.shared:
            self._unserved = (*(each for each in self._unserved if each and each is not backlog), backlog)

    def has_unserved(self) -> bool:
        """
        Whether calls wait where no lane serves.

        They got there because their lane was closed, because there was none, or because the balancer was another, when
        their callers queued them. Callers look here again after they queued a call, so none is forgotten.
        """
        return any(self._unserved) or (self._lanes.binding and bool(self.shared))

    def move_unserved(self) -> None:
        """
        Send calls that wait where no lane serves to the lanes' backlogs.

        Under the lock: a service that drains must not think that there is no call while one is between two backlogs.
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
                if call.settled():  # given up between the two, and found nowhere
                    self.discard(call)

    # -- looking on --------------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Places that are free; may lag by a call."""
        return len(self.room) + self.unminted

    @property
    def waiting(self) -> int:
        """Accepted calls that wait; never more than `size`. May lag by a call."""
        while True:
            parked = len(self.parked)
            standing = sum(map(len, self.backlogs()))
            if len(self.parked) == parked:  # else the two were not counted at the same time
                return max(0, standing - parked)


def rank_of(call: Call) -> float:
    """As `priorities.rank`."""
    return rank(call.options.priority, call.since)


def _first(backlog: deque[Call] | tuple[()], *, backwards: bool = False) -> Call | None:
    """The first call of *backlog*, or the last, that may end for another: it has never started."""
    try:
        call = backlog[-1 if backwards else 0]
    except IndexError:
        return None
    if not call.attempts:
        return call
    calls = list(backlog)
    return next((call for call in (calls[::-1] if backwards else calls) if not call.attempts), None)
