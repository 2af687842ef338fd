"""
Where a call waits, who takes it, and what becomes of it when something goes wrong.

The router is a state machine without threads: callers, workers and timers drive it. `docs/design/who-waits-where.md`
has the picture. In short:

* Each replica is a *lane* with one token for each free slot. A caller who takes a token sends its call there.
* Without a free slot a call joins the *backlog*, if it can take one of the `queue_size` tokens of *room*; whoever frees
  a
  slot hands it to the oldest call of the backlog.
* Without room a call is refused (`reject`), or (`block`) it is *parked*: it stands in the backlog without a token of
  room,
  its caller waits, and whoever frees room gives it to the parked call that came first.

Tokens are items of lists: `pop` and `append` are one step of the interpreter each, so taking a slot or a place in the
queue needs no lock and the bounds are exact. Every pair "make room, then look for who waits" / "wait, then look for
room" is done in these two orders, so that of two threads at least one sees the other.
"""

from __future__ import annotations

import threading
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.call.call import CURRENT
from sage_plugins.call.owner import CallOwner
from sage_plugins.errors import InvalidKeyError, OverloadedError, ReplicaDiedError, ServiceStoppedError
from sage_plugins.routing.ahead import Bundle
from sage_plugins.routing.lane import Lane, remove
from sage_plugins.routing.picking import fenced_picker
from sage_plugins.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import Balancer, Candidate, Replica, Work
    from sage_plugins.service.call_key import KeyOf

__all__ = ["Router"]

#: Seconds between two searches of a full queue for expired calls: each looks at every waiting call.
_SWEEP_EVERY_S: Final = 0.05

#: Tokens of room are minted in portions, so that a bound of a million waiting calls costs nothing until they wait.
_PORTION: Final = 1024


def _in_a_thread(body: Callable[[], None], name: str) -> None:
    threading.Thread(target=body, name=name, daemon=True).start()


class Router(CallOwner):
    """
    Accepts the calls of one service and gives each to a replica.

    All methods are safe from any thread.

    Attributes:
        route: Accept a call: `route(call)` is True if it was sent or queued, False if it is parked until there is room,
            or was turned away on its way, as `Call.wait_admitted` tells.
            Raises OverloadedError if the queue is full and the service rejects, ServiceStoppedError once it drains,
            NoReplicaError if there is no replica and will be none. Rebound whenever the set of replicas changes, so
            look it up for each call.
        on_change: Told, in whichever thread it happens and outside the router's lock, when the set of replicas or the
            balancer has changed.
    """

    route: Callable[[Call], bool]
    on_change: Callable[[], None]

    def __init__(  # noqa: PLR0913 - the settings of one service
        self,
        service: str,
        clock: Clock,
        *,
        queue_size: int,
        reject: bool,
        retry_lost: bool,
        count: Callable[[int, int, float, float], None],
        refused: Callable[[int, str], None],
        given_up: Callable[[], None] = lambda: None,
        balancer: Balancer | None = None,
        key_of: KeyOf | None = None,
        on_balancer_error: Callable[[BaseException], None] = lambda _: None,
        aside: Callable[[Callable[[], None], str], None] = _in_a_thread,
    ) -> None:
        """
        Make a router without replicas; calls queue until there is one.

        Args:
            service: Name of the service, for messages.
            clock: For deadlines.
            queue_size: Calls that may wait; 0 hands calls to free slots only.
            reject: Refuse calls when the queue is full, rather than make the caller wait.
            retry_lost: Start idempotent calls once more when their replica died.
            count: `count(method, outcome, wait_s, run_s)` for calls that end on this side.
            refused: `refused(method, reason)` for calls that were not accepted.
            given_up: Told after each call that a caller gave up, wherever it is counted.
            balancer: Chooses among several replicas; None has the first serve and the others stand by.
            key_of: The key of a call whose caller gave none; None if there is none then.
            on_balancer_error: Told when the balancer failed and was fenced off.
            aside: `aside(body, name)` runs *body*, which may wait for a new replica, where it holds up nobody
                who brings one: in a thread of that name unless somebody knows better.
        """
        self.service = service
        self.clock = clock
        self.queue_size = queue_size
        self.on_change = lambda: None
        self._reject = reject
        self._retry_lost = retry_lost
        self._count = count
        self._refused = refused
        self._given_up = given_up
        self._balancer = balancer
        self._binding = balancer is not None and balancer.binding
        self._key_of = key_of
        self._on_balancer_error = on_balancer_error
        self._aside = aside
        # Changes of the set, draining; never taken by a call that finds its way. Re-entrant: a signal handler may stop
        # the service in the middle of it.
        self._lock = threading.RLock()
        self._open: tuple[Lane, ...] = ()  # open ones, by index; replaced, never changed
        self._lanes: tuple[Lane, ...] = ()  # those of them that serve: all, or without balancing the first
        self._closed: tuple[Lane, ...] = ()  # those that still run calls
        self._backlog: deque[Call] = deque()  # waiting calls, oldest first
        self._orphans: tuple[deque[Call], ...] = ()  # backlogs that no lane serves any more; see _gather_strays
        # Waiting calls that their balancer binds to a lane, and that have no key: any other lane will do. Each is here
        # before it is in a backlog.
        self._loose: dict[Call, None] = {}
        self._parked: deque[Call] = deque()  # those among the waiting calls that hold no room, oldest first
        self._room: list[None] = [None] * min(queue_size, _PORTION)
        self._unminted = queue_size - len(self._room)  # guarded by _lock
        self._moving = 0  # replicas that died and whose calls are on their way back; guarded by _lock
        self._sweep_at = -inf  # a full queue is not searched for expired calls before this
        self._closing = False  # whether one of `_stopped` and `_unavailable` is set
        self._ended = False  # whether no waiting call has a chance any more
        self._stopped_to_outsiders: str | None = None  # why only services' own calls are accepted
        self._stopped: str | None = None  # why no call is accepted any more
        self._unavailable: Callable[[], Exception] | None = None  # why there is no replica and will be none
        self._watch: Callable[[], None] | None = None  # told whenever a slot may have got free for good
        self._retiring: tuple[tuple[Lane, Callable[[], None]], ...] = ()  # closed lanes, and who waits for their end
        self._avoided: frozenset[Lane] = frozenset()  # lanes that serve only while there is no other
        self._superseded: list[None] = []  # no longer empty once the route that knows it is out of date
        self._pick: Callable[[Call], Candidate] | None = None
        self._rebind()

    # -- the way of a call -------------------------------------------------------------------------------------------

    def _rebind(self) -> None:
        """Compose the shortest way that the present set of replicas allows; under the lock, once calls can come."""
        superseded, self._superseded = self._superseded, []
        able = tuple(lane for lane in self._open if lane not in self._avoided) or self._open
        # Who took a dead one's place stands by at the end of the row: calls that have moved need not move back.
        first = min(able, key=lambda lane: lane.seniority, default=None)
        self._lanes = able if self._balancer is not None or first is None else (first,)
        for lane in self._open:
            self._give_backlog(lane)
        self._pick = None
        if self._balancer and len(self._lanes) > 1:
            self._pick = fenced_picker(self._balancer, self._lanes, self._key_of, self._on_balancer_error)
        self._closing = self._stopped is not None or self._unavailable is not None
        if self._closing:
            self.route = self._refuse
        elif not self._lanes:
            self.route = self._queue
        elif self._pick is None:
            self.route = self._compose_single(self._lanes[0])
        else:
            self.route = self._compose_balanced(self._pick)
        if self._stopped_to_outsiders is not None and not self._closing:
            self.route = self._only_insiders(self.route)
        # Last: whoever still finds its way by an old route looks at this after it queued its call, and then at the
        # rest.
        superseded.append(None)

    def _give_backlog(self, lane: Lane) -> None:
        """Have an open lane take calls from where they now wait for it; under the lock."""
        backlog: deque[Call] | tuple[()] = ()
        if lane in self._lanes:
            own = isinstance(lane.backlog, deque) and lane.backlog is not self._backlog
            backlog = self._backlog if not self._binding else lane.backlog if own else deque()
        if backlog is not lane.backlog:
            self._orphan(lane.backlog)
            lane.backlog = backlog

    def _orphan(self, backlog: deque[Call] | tuple[()]) -> None:
        """Remember a backlog that no lane serves any more, until it is empty; under the lock."""
        if isinstance(backlog, deque) and backlog is not self._backlog:
            self._orphans = (*(each for each in self._orphans if each and each is not backlog), backlog)

    def _compose_single(self, lane: Lane) -> Callable[[Call], bool]:
        free, take, backlog, queue = lane.free, lane.free.pop, lane.backlog, self._queue
        run = lane.run_here or lane.send
        parked, take_room, wait = self._parked, self._room.pop, self._backlog.append
        shared, superseded = backlog is self._backlog, self._superseded

        def route(call: Call) -> bool:
            # Whoever finds calls waiting queues behind them, even if a slot is free: so calls keep their order.
            if free and not backlog:
                try:
                    take()
                except IndexError:  # another caller was quicker
                    pass
                else:
                    call.lane = lane
                    run(call)
                    return True
            elif shared and not parked:
                # `_queue` written out for the case that there is room.
                try:
                    take_room()
                except IndexError:
                    pass
                else:
                    wait(call)
                    if free or superseded:
                        self._after_enqueue(call)
                        return call.turned_away is None
                    return True
            # Outside the `except` clauses: what is raised from here on has nothing to do with them.
            return queue(call, lane)

        return route

    def _compose_balanced(self, pick: Callable[[Call], Candidate]) -> Callable[[Call], bool]:
        queue = self._queue

        def route(call: Call) -> bool:
            lane: Any = pick(call)
            if lane.free and not lane.backlog:
                try:
                    lane.free.pop()
                except IndexError:
                    pass
                else:
                    call.lane = lane
                    (lane.run_here or lane.send)(call)
                    return True
            return queue(call, lane)

        return route

    def _refuse(self, call: Call, lane: Lane | None = None) -> bool:  # noqa: ARG002 - stands in for _queue
        if not self._refuses:  # a replica has come since this was the way; it may not be composed to the end yet
            with self._lock:
                route = self.route
            return route(call)
        unavailable = self._stopped is None and self._unavailable is not None
        self._refused(call.method.index, "no_replica" if unavailable else "stopped")
        raise self._refusal(call)

    @property
    def _refuses(self) -> bool:
        """Whether there is a reason to refuse calls."""
        return bool(self._stopped or self._unavailable or self._stopped_to_outsiders)

    def _refusal(self, call: Call) -> Exception:
        unavailable = self._unavailable
        if self._stopped is None and unavailable is not None:
            return unavailable()
        msg = (
            f"{self.service}.{call.method.name} was not run: service '{self.service}' "
            f"{self._stopped or self._stopped_to_outsiders or 'had no replica'}"
        )
        return ServiceStoppedError(msg, service=self.service, method=call.method.name)

    # -- waiting for a slot ------------------------------------------------------------------------------------------

    def _queue(self, call: Call, lane: Lane | None = None) -> bool:
        """Let the call wait for a slot, or for room to wait."""
        if self._parked or not self._take_room():
            if self._send_elsewhere(call):
                return True
            if self._sweep() and not self._parked and self._take_room():
                self._enqueue(call, lane)
            elif self._reject:
                self._refuse_overload(call)
            else:
                call.parked = True
                self._parked.append(call)
                self._enqueue(call, lane)
                self._admit_parked()
        else:
            self._enqueue(call, lane)
        return not call.parked and call.turned_away is None

    def _send_elsewhere(self, call: Call) -> bool:
        """The queue is full, but the replica chosen may be busy while another is free."""
        if self._is_bound(call):
            return False
        for lane in self._lanes:
            if lane.free and not lane.backlog:
                try:
                    lane.free.pop()
                except IndexError:
                    continue
                call.lane = lane
                (lane.run_here or lane.send)(call)
                return True
        return False

    def _is_bound(self, call: Call) -> bool:
        """Whether the call must wait for the balancer's choice: it binds calls that have a key."""
        if not self._binding or call.options.key is not None:
            return self._binding
        try:
            return self._key_of is not None and self._key_of(call) is not None
        except InvalidKeyError:  # accepted when there was nothing to choose, as in `_place_for`
            return True

    def _enqueue(self, call: Call, lane: Lane | None) -> None:
        if self._binding:
            self._note_loose(call)
        backlog = self._backlog if lane is None else lane.backlog
        if isinstance(backlog, tuple):  # the lane was closed since it was picked
            with self._lock:
                self._place_for(call).append(call)
        else:
            backlog.append(call)
            if lane is not None and lane.backlog is not backlog:  # replaced since, and perhaps emptied already
                with self._lock:
                    self._orphan(backlog)
        self._after_enqueue(call)

    def _note_loose(self, call: Call) -> None:
        """Remember that the call, which is about to join a backlog, may leave it for another."""
        if self._binding and not self._is_bound(call):
            self._loose[call] = None

    def _after_enqueue(self, call: Call) -> None:
        """A slot may have got free, the lanes have changed, or the call ended, while it was on its way here."""
        self._gather_strays()
        self._match()
        if self._closing:
            self._turn_away(call)
        if call.settled():
            self._discard(call)

    def _discard(self, call: Call) -> None:
        """Take an ended call out of wherever it waits."""
        for backlog in self._backlogs():
            if remove(backlog, call):
                self._leave_queue(call)
                return
        # In no backlog: it was taken for a slot, and whoever takes it up there finds that it is over; or it is on its
        # way into one, and `_after_enqueue` discards it then.

    def _refuse_overload(self, call: Call) -> None:
        self._refused(call.method.index, "overloaded")
        msg = (
            f"{self.service}.{call.method.name} was not accepted: the queue is full (queue_size="
            f"{self.queue_size}). Call again later, raise `queue_size`, or add threads or replicas"
        )
        raise OverloadedError(msg, service=self.service, method=call.method.name)

    def _take_room(self) -> bool:
        try:
            self._room.pop()
        except IndexError:
            if self._unminted == 0:
                return False
            with self._lock:
                portion = min(self._unminted, _PORTION)
                self._unminted -= portion
                self._room.extend([None] * portion)
            return self._take_room()
        return True

    def _leave_queue(self, call: Call) -> None:
        """Free the room of a call that was taken out of its backlog."""
        self._loose.pop(call, None)
        if call.parked and remove(self._parked, call):
            call.admit()
            return
        # Not among the parked, or given room this very moment: either way it holds a token.
        self._room.append(None)
        if self._parked:
            self._admit_parked()

    def _admit_parked(self) -> None:
        """Give free room to the parked calls that came first."""
        while self._parked and self._take_room():
            try:
                call = self._parked.popleft()
            except IndexError:
                self._room.append(None)
            else:
                call.admit()

    def _match(self) -> None:
        """Bring waiting calls and free slots together; whoever adds one of the two calls this."""
        self._fill_slots()
        while self._loose and self._move_loose():
            self._fill_slots()

    def _fill_slots(self) -> None:
        for lane in self._lanes:
            while lane.backlog and lane.free:
                try:
                    lane.free.pop()
                except IndexError:
                    break
                lane.freed(None)

    def _move_loose(self) -> bool:
        """Have the oldest call that may wait anywhere, and could start in another lane, wait there."""
        if not self._binding or not any(lane.free for lane in self._lanes):
            return False
        # Under the lock for the reason given in `_gather_strays`.
        with self._lock:
            for call in tuple(self._loose):
                for lane in self._lanes:
                    if self._could_start(call, lane) and self._take_from_others(call, lane):
                        lane.backlog.append(call)  # type: ignore[union-attr] # an open one's
                        if call.settled():  # given up between the two, and found nowhere
                            self._discard(call)
                        return True
        return False

    def _could_start(self, call: Call, lane: Lane) -> bool:  # noqa: ARG002 - for methods' limits
        """Whether *call* would get a slot if it waited for *lane*."""
        return bool(lane.free) and not lane.backlog

    def _take_from_others(self, call: Call, lane: Lane) -> bool:
        return any(remove(other.backlog, call) for other in self._lanes if other is not lane)

    def _sweep(self) -> bool:
        """
        Take expired calls out of a full queue, where nobody may be watching their deadline; True if there were any.
        """
        now = self.clock.monotonic()
        if now < self._sweep_at:
            return False
        self._sweep_at = now + _SWEEP_EVERY_S
        expired = [call for backlog in self._backlogs() for call in tuple(backlog) if call.expire()]
        return bool(expired)

    def _backlogs(self) -> Iterable[deque[Call] | tuple[()]]:
        lanes = tuple(lane.backlog for lane in self._lanes) if self._binding else ()
        return (self._backlog, *lanes, *self._orphans)

    def _place_for(self, call: Call) -> deque[Call]:
        """The backlog that a call joins which has lost its lane."""
        while self._binding:
            lanes, pick = self._lanes, self._pick
            if not lanes:
                break
            try:
                lane: Any = lanes[0] if pick is None else pick(call)
            except InvalidKeyError:  # accepted when there was nothing to choose, so that nobody looked at its key
                lane = lanes[0]
            if isinstance(lane.backlog, deque):
                return lane.backlog
        return self._backlog

    # -- slots that get free -----------------------------------------------------------------------------------------

    def _compose_follow(self, lane: Lane) -> Callable[[Any], Call | None]:
        """What a replica asks when the work of one call has ended; see `interfaces.ReplicaEvents.follow`."""
        free, return_room, parked, loose = lane.free, self._room.append, self._parked, self._loose

        def follow(_ended: Call | None) -> Call | None:
            backlog = lane.backlog
            if backlog:
                try:
                    call = backlog.popleft()
                except IndexError:
                    pass
                else:
                    # The slot goes straight on to the oldest waiting call.
                    if lane.run_here is not None:
                        granted = call.grant(lane)
                        self._leave_queue(call)
                        return None if granted else follow(call)
                    call.lane = lane
                    if parked or loose:
                        self._leave_queue(call)
                    else:  # `_leave_queue` written out for the case that nobody waits for room, and all are bound
                        return_room(None)
                        if parked:
                            self._admit_parked()
                    return call
            free.append(None)
            # A call may have come to wait between the two looks, and not necessarily in the same place.
            if lane.backlog or loose or self._watch is not None:
                self._after_free()
            return None

        return follow

    def _after_free(self) -> None:
        self._match()
        self._tell_watch()

    def _tell_watch(self) -> None:
        watch = self._watch  # looked at once: it goes when the last lane has retired
        if watch is not None:
            watch()

    # -- calls that are sent ahead -----------------------------------------------------------------------------------

    def ahead(self, lane: Lane, call: Call, most: int) -> list[Call]:
        """As `interfaces.ReplicaEvents.ahead`, for the replica of *lane*."""
        if not lane.backlog or not self._may_go_ahead(call):
            return []
        # Slots that get free meanwhile are to find their share.
        lanes = (lane,) if self._binding else self._lanes
        most = min(most, lane.waiting // max(1, sum(each.slots for each in lanes)))
        found = self._take_ahead(lane, most) if most > 0 else []
        if found:
            with self._lock:
                Bundle(lane, [call, *found])
        return found

    def _take_ahead(self, lane: Lane, most: int) -> list[Call]:
        """Take calls that may run twice from the head of the lane's backlog: none overtakes another."""
        found: list[Call] = []
        backlog = lane.backlog
        while isinstance(backlog, deque) and len(found) < most:
            try:
                oldest = backlog[0]
                if not self._may_go_ahead(oldest):
                    break
                call = backlog.popleft()
            except IndexError:
                break
            if call is not oldest and not self._may_go_ahead(call):  # somebody else took the one that was looked at
                self._put_back(call, lane)
                break
            call.lane = lane
            self._leave_queue(call)
            if not call.settled():
                found.append(call)
        return found

    def _put_back(self, call: Call, lane: Lane) -> None:
        """Queue a call again that was taken out for a moment."""
        with self._lock:
            (lane.backlog if isinstance(lane.backlog, deque) else self._place_for(call)).appendleft(call)
        self._match()  # a slot may have got free meanwhile
        if call.settled():  # given up meanwhile, and found nowhere
            self._discard(call)

    def _may_go_ahead(self, call: Call) -> bool:
        return _may_run_twice(call)

    def returned(self, calls: Sequence[Call]) -> None:
        """As `interfaces.ReplicaEvents.returned`."""
        self._take_back(calls)
        self._tell_watch()  # what is left of the bundle may be abandoned

    def gave_up(self, call: Call, outcome: int, *, started: bool) -> None:
        """A caller, a deadline or a stop ended *call*: count it and free its place in the queue."""
        spent = self.clock.monotonic() - call.since
        if started:
            with self._lock:
                self._abandoned(call, 1)
            call.lane.cancel(call)
            counts = call.lane.counts
            if counts is None or not counts(call, outcome, spent):
                # How long it waited before it ran is known where it runs; most of the time it ran.
                self._count(call.method.index, outcome, 0.0, spent)
        else:
            self._discard(call)
            self._count(call.method.index, outcome, spent, 0.0)
        self._given_up()
        self._tell_watch()

    def abandoned_ended(self, call: Call) -> None:
        """The work has ended of a call that was given up while it ran; before its slot is freed."""
        with self._lock:
            # May come before `gave_up` has counted it, so the number may be -1 for a moment.
            self._abandoned(call, -1)

    def can_start(self, call: Call, holders: Collection[Work], *, beside: Lane | None = None) -> bool:
        """Whether *call*, which waits, can get a slot of a lane other than *beside* while *holders* keep theirs."""
        with self._lock:
            lanes: Sequence[Lane] = self._lanes
            if self._is_bound(call):
                lanes = [lane for lane in lanes if call in tuple(lane.backlog)] or lanes
            return not lanes or any(
                self._has_way(call, lane, [holder for holder in holders if holder.lane is lane])
                for lane in lanes
                if lane is not beside
            )

    def _has_way(self, call: Call, lane: Lane, holders: Collection[Work]) -> bool:  # noqa: ARG002 - for methods' limits
        """Whether *call* can get a slot of *lane* while *holders* keep theirs."""
        return len(holders) < lane.slots - lane.withdrawn

    def batch_started(self, batch: Any, number: int) -> None:
        """Only a `MethodRouter` makes batches."""
        raise NotImplementedError

    def _abandoned(self, call: Call, change: int) -> None:
        """There is one slot more or less that is held by nothing but abandoned calls; under the lock."""
        bundle = call.bundle
        if bundle is not None:
            bundle.abandoned += change
            self._reckon(bundle)
        elif not call.lane.dead:
            call.lane.abandoned += change

    @staticmethod
    def _reckon(bundle: Bundle) -> None:
        """Count the slot of *bundle* as abandoned if it is; under the lock."""
        forsaken = bundle.is_forsaken()
        if not bundle.lane.dead:
            bundle.lane.abandoned += forsaken - bundle.forsaken
        bundle.forsaken = forsaken

    # -- the set of replicas -----------------------------------------------------------------------------------------

    def lane(self, id: str, index: int, seniority: int = 0) -> Lane:
        """
        A closed lane for a replica that is about to start; its `follow` and `freed` are what the replica reports to.

        Args:
            id: The replica's.
            index: Its position.
            seniority: Without a balancer the open lane with the lowest one serves, of several the one with the lowest
                index.
        """
        lane = Lane(id, index, deque() if self._binding else self._backlog, seniority)
        lane.follow = self._compose_follow(lane)
        return lane

    def open(self, lane: Lane, replica: Replica) -> None:
        """Send calls to *replica* from now on."""
        lane.attach(replica)
        with self._lock:
            self._unavailable = None
            self._ended = self._ended and self._stopped is not None
            self._open = tuple(sorted((*self._open, lane), key=lambda each: each.index))
            self._rebind()
        lane.free.extend([None] * lane.slots)
        self._after_change()

    def _after_change(self) -> None:
        """The lanes, or what they serve, have changed: calls may wait in the wrong place, or beside a free slot."""
        self._gather_strays()
        self._match()
        self._tell_watch()
        self.on_change()

    def close_lane(self, lane: Lane) -> None:
        """Send no more calls to a replica; those that wait for it alone go to others, those that it has go on there."""
        with self._lock:
            if lane not in self._open:
                return
            self._open = tuple(each for each in self._open if each is not lane)
            self._avoided -= {lane}
            self._closed = (*(each for each in self._closed if each.inflight), lane)
            self._rebind()  # first: who finds the lane without a backlog picks again, and must not pick it again
            self._orphan(lane.backlog)
            lane.backlog = ()
            lane.take_free()
            self._give_back()
        self._after_change()

    def retire(self, lane: Lane, on_idle: Callable[[], None]) -> None:
        """
        Close *lane*, and tell when none of its calls runs any more, abandoned ones aside: nothing is sent after that.

        Args:
            lane: An open lane.
            on_idle: Called once, from any thread.
        """
        with self._lock:
            if not self._retiring:
                self._watch = _both(self._watch, self._look_at_retiring)
            self._retiring = (*self._retiring, (lane, on_idle))
        self.close_lane(lane)
        self._look_at_retiring()

    def _look_at_retiring(self) -> None:
        with self._lock:
            for lane, _ in self._retiring:
                # Who chose the lane while it was open, and was held up since, must not find a slot.
                lane.take_free()
            over = [entry for entry in self._retiring if entry[0].withdrawn + entry[0].abandoned >= entry[0].slots]
            self._retiring = tuple(entry for entry in self._retiring if entry not in over)
            if not self._retiring and self._watch == self._look_at_retiring:
                self._watch = None
        for _, on_idle in over:
            on_idle()

    def avoid(self, lane: Lane, *, avoided: bool) -> None:
        """Send calls to *lane* only while no other is open, or again like to any other; the calls it has go on."""
        with self._lock:
            self._avoided = self._avoided | {lane} if avoided else self._avoided - {lane}
            self._rebind()
            self._give_back()
        self._after_change()

    def set_balancer(self, balancer: Balancer | None, key_of: KeyOf | None = None) -> None:
        """
        Have *balancer* choose from now on; None has the first lane serve and the others stand by.

        *key_of* is as for the constructor. Calls that wait move to where the new one has them wait. What the balancer
        raises here is fenced as always.
        """
        with self._lock:
            self._balancer = balancer
            self._key_of = key_of
            self._binding = balancer is not None and balancer.binding
            for lane in self._open:  # what was kept for the old one's choice is for the new one to choose
                self._orphan(lane.backlog)
                lane.backlog = ()
            self._rebind()
            self._give_back()
        self._after_change()

    def _give_back(self) -> None:
        """While the service drains: slots that were taken back because it had become idle are needed again."""
        if self._stopped is not None:
            for lane in self._lanes:
                lane.give_back()

    def _gather_strays(self) -> None:
        """
        Send calls that wait where no lane serves to the lanes' backlogs.

        They got there because their lane was closed, because there was none, or because the balancer was another, when
        their callers queued them. Callers look here again after they queued a call, so none is forgotten.
        """
        if not (any(self._orphans) or (self._binding and self._backlog)):
            return
        # Under the lock: a service that drains must not think that there is no call while one is between two backlogs.
        with self._lock:
            for stray in (*self._orphans, self._backlog) if self._binding else self._orphans:  # the older ones first
                while stray and (self._lanes or stray is not self._backlog):
                    try:
                        call = stray.popleft()
                    except IndexError:
                        break
                    self._note_loose(call)
                    self._place_for(call).append(call)
                    if call.settled():  # given up between the two, and found nowhere
                        self._discard(call)
            self._give_back()

    def lost(self, lane: Lane, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        """
        The replica of *lane* died.

        Calls that surely had not started go to the head of the queue. One that may have started ends with
        ReplicaDiedError, unless it is idempotent and the service retries: then it is started once more.
        """
        with self._lock:
            self._moving += 1
        self.close_lane(lane)
        again: list[Call] = list(not_started)
        untold: list[Callable[[], None]] = []
        for call in maybe:
            if self._retry_lost and _may_run_twice(call) and call.attempts == 0:
                call.attempts += 1
                again.append(call)
                continue
            # Callbacks may wait for the replica that takes this one's place, and whoever sees to that may be who tells.
            self._give_up_lost(call, lane, cause, untold.append)
        with self._lock:
            # Nothing runs there any more, and its slots never come back.
            lane.dead = True
            lane.abandoned = 0
            lane.withdrawn = lane.slots - len(lane.free)
        for call in reversed(again):
            if call.unstarted() or call.rearm():
                self._leave_bundle(call)
                self._return(call)
        with self._lock:
            self._moving -= 1
            self._give_back()  # closing the lane found nothing waiting and took them back
        self._match()
        self._tell_watch()
        if untold:

            def tell() -> None:
                for each in untold:
                    each()

            self._aside(tell, f"{lane.id}-lost")

    def _give_up_lost(
        self, call: Call, lane: Lane, cause: BaseException, aside: Callable[[Callable[[], None]], None]
    ) -> None:
        msg = (
            f"{self.service}.{call.method.name} was running on replica {lane.id} when that died ({cause}); it may "
            "or may not have had its effect. Declare the method idempotent and set `failover_enabled` to have it "
            "retried"
        )
        where = {"service": self.service, "method": call.method.name, "replica": lane.id, "node": lane.node}
        call.give_up(ReplicaDiedError(msg, maybe_executed=True, **where), Outcome.DIED, aside=aside)

    def refused(self, lane: Lane, work: Work) -> None:  # noqa: ARG002 - for methods' limits
        """
        The replica of *lane* had no slot for *work*, which other processes use too: it goes to the head of the queue.

        The slot that it was sent to stays taken, until the replica tells that it is free.
        """
        self._take_back([work])

    def _take_back(self, calls: Sequence[Call]) -> None:
        """Queue calls again that were sent and did not start."""
        for call in reversed(calls):
            if not call.unstart():
                self.abandoned_ended(call)
                continue
            self._leave_bundle(call)
            if not call.expire():  # nobody may be watching that any more: it had been claimed
                self._return(call)
        with self._lock:
            self._give_back()  # a service that drains found nothing waiting and took them back
        self._match()

    def _leave_bundle(self, call: Call) -> None:
        bundle = call.bundle
        if bundle is not None:
            with self._lock:
                bundle.leave(call)
                self._reckon(bundle)

    def _return(self, call: Call) -> None:
        """Put an accepted call back at the head of the queue; if that is full, it gets the next room."""
        call.lane = None
        call.returned = True
        if self._ended:
            call.give_up(self._refusal(call), Outcome.STOPPED)
            return
        if not self._take_room():
            call.parked = True
            self._parked.appendleft(call)
        with self._lock:
            self._note_loose(call)
            self._place_for(call).appendleft(call)
        self._admit_parked()
        if call.settled():  # given up on its way back
            self._discard(call)

    def unavailable(self, error: Callable[[], Exception]) -> None:
        """
        There will be no replica: end the waiting calls with a new *error* each, and refuse others so.

        Does nothing while one is open. It lasts until one is opened.
        """
        with self._lock:
            if self._open:
                return
            self._unavailable = error
            self._ended = True
            self._rebind()
        self._end_waiting(error)
        self.on_change()

    # -- the end -----------------------------------------------------------------------------------------------------

    def close_to_outsiders(self, why: str, watch: Callable[[], None]) -> None:
        """
        Accept only calls made by a service's method while it answers one, so that accepted calls can finish.

        Args:
            why: Completes "service 'kv' ..." in the errors of the calls refused.
            watch: Told, from any thread, when `idle` may have become true.
        """
        with self._lock:
            self._stopped_to_outsiders = why
            self._watch = _both(self._watch, watch)
            self._rebind()
        self._end_parked(lambda call: call.context is None or call.context.get(CURRENT) is None)

    def _end_parked(self, which: Callable[[Call], bool]) -> None:
        """Refuse parked calls: they were not accepted, their callers are still waiting for that."""
        for call in tuple(self._parked):
            if call.parked and not call.returned and which(call):
                self._turn_away(call)

    def _turn_away(self, call: Call) -> None:
        """End a call whose caller is still waiting to hear that it was accepted, unless it has started."""
        if not self._refuses:  # a replica has come meanwhile
            return
        error = call.turned_away = self._refusal(call)
        call.give_up(error, Outcome.STOPPED, only_unstarted=True)

    def _only_insiders(self, inside: Callable[[Call], bool]) -> Callable[[Call], bool]:
        def route(call: Call) -> bool:
            return inside(call) if CURRENT.get() is not None else self._refuse(call)

        return route

    @property
    def idle(self) -> bool:
        """Whether no call waits, and none runs but abandoned ones."""
        with self._lock:
            lanes = (*self._open, *self._closed)
            busy = self._moving or any(self._backlogs()) or any(lane.inflight > lane.abandoned for lane in lanes)
            return not busy

    def drain(self, why: str, on_idle: Callable[[], None]) -> None:
        """
        Accept no more calls; those accepted go on.

        Args:
            why: Completes "service 'kv' ..." in the errors of the calls refused.
            on_idle: Called, perhaps more than once and from any thread, when no accepted call waits or runs. Slots of
                calls that were abandoned do not count.
        """
        with self._lock:
            self._stopped = why
            self._watch = _both(self._watch, lambda: self._withdraw(on_idle))
            self._rebind()
        self._end_parked(lambda _: True)
        self._withdraw(on_idle)

    def _withdraw(self, on_idle: Callable[[], None]) -> None:
        """Take free slots back for good, so that nothing starts once the service is idle; tell if it is."""
        with self._lock:
            for lane in self._open:
                if not lane.backlog and not self._loose:
                    lane.take_free()
            idle = self.idle and all(lane.withdrawn + lane.abandoned >= lane.slots for lane in self._open)
        if idle:
            on_idle()

    def end(self) -> None:
        """End the calls that still wait, after `drain`; those that a dying replica returns from now on end too."""
        self._ended = True
        self._end_waiting(None)

    def _end_waiting(self, error: Callable[[], Exception] | None) -> None:
        for backlog in self._backlogs():
            for call in tuple(backlog):
                # A service that is stopped says that, whatever has become of its replicas.
                reason = self._refusal(call) if error is None or self._stopped is not None else error()
                call.give_up(reason, Outcome.STOPPED, only_unstarted=True)

    def after_fork(self, error: Callable[[], Exception]) -> None:
        """
        In a forked child: refuse every call with a new *error*; its locks may be held by threads that are not here.
        """
        self._lock = threading.RLock()
        self._unavailable = error
        self._stopped = None
        self._closing = True
        self.route = self._refuse

    # -- looking on --------------------------------------------------------------------------------------------------

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The replicas that are open, those that stand by included."""
        return self._open

    @property
    def serving(self) -> tuple[Lane, ...]:
        """Those of them to which calls go now."""
        return self._lanes

    @property
    def avoided(self) -> frozenset[Lane]:
        """Those of them that serve only while no other is open."""
        return self._avoided

    @property
    def unavailability(self) -> Exception | None:
        """Why there is no replica and will be none; None while there is hope."""
        unavailable = self._unavailable
        return None if unavailable is None else unavailable()

    @property
    def waiting(self) -> int:
        """Accepted calls that wait for a slot; never more than `queue_size`. May lag by a call."""
        return max(0, sum(map(len, self._backlogs())) - len(self._parked))

    @property
    def parked(self) -> int:
        """Calls whose callers wait for room; may lag by a call."""
        return len(self._parked)


def _may_run_twice(call: Call) -> bool:
    idempotent = call.options.idempotent
    return call.method.idempotent if idempotent is None else idempotent


def _both(first: Callable[[], None] | None, second: Callable[[], None]) -> Callable[[], None]:
    """Tell both: a service may be closed to outsiders and drained at the same time, by two threads."""
    if first is None:
        return second

    def both() -> None:
        first()
        second()

    return both
