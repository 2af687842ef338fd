"""
Sends each call to a free slot, or puts it into the queue.

The router is a state machine that callers, workers and timers run. `docs/design/who-waits-where.md` has a picture:

* Each replica is a *lane* with one token for each free slot. A caller takes a token and sends its call there.
* Without a free slot, a call takes one of the `queue_size` tokens of *room* and joins the *backlog*. A freed slot goes
  to the oldest call of the backlog.
* Without room, a call is refused (`reject`), or (`block`) it is *parked*: it stands in the backlog without a token, and
  its caller waits. Freed room goes to the oldest parked call.

Tokens are items of lists: `pop` and `append` are one step of the interpreter, so the bounds are exact without a lock.
A thread that makes room then looks for waiters, and one that waits then looks for room: at least one sees the other.
"""

from __future__ import annotations

import threading
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any

from sage_plugins.routing.draining import Closing, waking
from sage_plugins.routing.guarding.unguarded import UNGUARDED, GuardedOwner
from sage_plugins.routing.lane import Lane, Lanes, compose_follow
from sage_plugins.routing.losses import Losses
from sage_plugins.routing.prefetch import Prefetch
from sage_plugins.routing.queue import LOWEST, Queue
from sage_plugins.routing.slot_recovery.recovery import SlotRecovery

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import Balancer, Candidate, Replica, Work
    from sage_plugins.routing.guarding.unguarded import Unguarded
    from sage_plugins.routing.observing import Observe
    from sage_plugins.service.call_key import KeyOf

__all__ = ["Router"]


class Router(GuardedOwner):
    """
    Accepts the calls of one service and gives each to a replica; safe from any thread.

    Attributes:
        route: Accept a call: `route(call)` is True if it was sent or queued, False if it is parked until there is room,
            or was turned away on its way, as `Call.wait_admitted` tells.
            Raises OverloadedError if the queue is full and the service rejects, ServiceStoppedError once it drains,
            NoReplicaError if there is no replica and will be none. Rebound whenever the set of replicas changes, so
            look it up for each call.
        on_change: Told, in whichever thread it happens and outside the router's lock, when the set of replicas or the
            balancer has changed.
        coming: Gives the lanes of replicas that are not open yet and may be soon; must not wait.
        on_unserved: As for the constructor; what is set later is told once replicas have come and gone.
    """

    route: Callable[[Call], bool]
    on_change: Callable[[], None]
    coming: Callable[[], Collection[Lane]]
    on_unserved: Callable[[], None] | None

    def __init__(  # noqa: PLR0913 - the settings of one service
        self,
        service: str,
        clock: Clock,
        *,
        queue_size: int,
        reject: bool,
        guards: Unguarded = UNGUARDED,
        count: Callable[[int, int, float, float], None],
        refused: Callable[[int, str], None],
        given_up: Callable[[], None] = lambda: None,
        balancer: Balancer | None = None,
        key_of: KeyOf | None = None,
        observe: Observe | None = None,
        on_balancer_error: Callable[[BaseException], None] = lambda _: None,
        aside: Callable[[Callable[[], None]], None] | None = None,
        refuses_late: bool = False,
        sheds: str = "",
        overloaded: Callable[[str], None] = lambda _: None,
        on_unserved: Callable[[], None] | None = None,
    ) -> None:
        """
        Make a router without replicas; calls queue until there is one.

        Args:
            service: Name of the service, for messages.
            clock: For deadlines.
            queue_size: Calls that may wait; 0 hands calls to free slots only.
            reject: Refuse calls when the queue is full, rather than make the caller wait.
            guards: What is done about calls that fail, made for this router alone.
            count: `count(method, outcome, wait_s, run_s)` for calls that end on this side.
            refused: `refused(method, reason)` for calls that were not accepted.
            given_up: Told after each call that a caller gave up, wherever it is counted.
            balancer: Chooses among several replicas; None has the first serve and the others stand by.
            key_of: The key of a call whose caller gave none; None if there is none then.
            observe: Told how each call ended for which the balancer chose; None if it does not want to know.
            on_balancer_error: Told when the balancer failed and turns take its place.
            aside: As `CallOwner.aside`, unless that will do.
            refuses_late: Turn calls away that cannot be answered in time, rather than let them wait.
            sheds: As `Queue.sheds`.
            overloaded: Told why, when one is turned away for the first time since a calm.
            on_unserved: Told of each call that comes while no replica takes calls; must not wait. None for nobody.
        """
        self.service = service
        self.clock = clock
        if aside is not None:
            self.aside = aside
        self.on_change = lambda: None
        self.coming = lambda: ()
        self.on_unserved = on_unserved
        self._reject, self._refused = reject, refused
        self.minds_priority = sheds == LOWEST  # whether calls start by their priority
        self._lanes = Lanes(balancer, key_of, on_balancer_error, observe)
        self._lock, self._lanes.rebind = self._lanes.lock, self._rebind
        self._queue = Queue(self._lanes, clock, queue_size, service, overloaded, refused, sheds, late=refuses_late)
        self.oldest_wait = self._queue.oldest_wait
        self._closing = Closing(service, self._lanes, self._queue, self._rebind)
        self._losses = Losses(
            service,
            clock,
            self._lanes,
            self._queue,
            self._closing,
            match=self._match,
            close_lane=self.close_lane,
            not_again=guards.not_again,
            overdue=guards.overdue,
            stopped=guards.stopped,
            count=count,
            given_up=given_up,
        )
        self.retries = self._losses.retries
        self._guards = guards
        self.on_result = self.on_error = None  # found faster than the class's
        guards.join(*self._parts(refused))
        self._recovery = SlotRecovery(
            self._lanes, self._queue, clock, again=self._losses.again, match=self._slot_is_free
        )
        self.suspect, self.suspect_loss_of = self._recovery.suspect, self._recovery.suspect_loss_of
        self._prefetch = self._make_prefetch()
        self._follow = compose_follow(self._queue, self._closing, self._slot_is_free)
        self._refuses_all = False  # whether calls are turned away that are on their way into the queue
        self._superseded: list[None] = []  # no longer empty once the route that knows it is out of date
        self._rebind()

    def _make_prefetch(self) -> Prefetch:
        return Prefetch(self._lanes, self._queue, self._match)

    # -- the way of a call -------------------------------------------------------------------------------------------

    def _rebind(self) -> None:
        """Compose the shortest way that the present set of replicas allows; under the lock, once calls can come."""
        superseded, self._superseded = self._superseded, []
        self._lanes.arrange()
        self._queue.assign_backlogs()
        self._refuses_all = self._closing.refuses_all
        self._compose_route()
        # Last: a caller on an old route looks at this after it has queued its call, and then at the rest.
        superseded.append(None)

    def _compose_route(self) -> None:
        """The way, for the lanes as they are arranged; under the lock, once calls can come."""
        lanes = self._lanes
        if self._refuses_all:
            self.route = self._refuse
        elif not lanes.serving:
            self.route = self._wait if self.on_unserved is None else waking(self._wait, self.on_unserved)
        elif lanes.pick is None:
            self.route = self._compose_single(lanes.serving[0])
        else:
            self.route = self._compose_balanced(lanes.pick)
        if not self._refuses_all:
            self.route = self._guards.guard(self.route)
        if self._closing.stopped_to_outsiders is not None and not self._refuses_all:
            self.route = self._closing.only_from_services(self.route, self._refuse)

    def _compose_single(self, lane: Lane) -> Callable[[Call], bool]:
        queue = self._queue
        free, take, backlog, wait = lane.free, lane.free.pop, lane.backlog, self._wait
        run = lane.run_here or lane.send
        parked, take_room, join = queue.parked, queue.room.pop, queue.shared.append
        shared, superseded = backlog is queue.shared and queue.admission is None, self._superseded

        def route(call: Call) -> bool:
            # A caller that finds calls waiting queues behind them, even if a slot is free: so calls keep their order.
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
                # `_wait` written out for the case that there is room.
                try:
                    take_room()
                except IndexError:
                    pass
                else:
                    join(call)
                    if free or superseded:
                        self._joined(call)
                        return call.turned_away is None
                    return True
            # Outside the `except` clauses: what is raised from here on has nothing to do with them.
            return wait(call, lane)

        return route

    def _compose_balanced(self, pick: Callable[[Call], Candidate]) -> Callable[[Call], bool]:
        wait = self._wait

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
            return wait(call, lane)

        return route

    def _refuse(self, call: Call, lane: Lane | None = None) -> bool:  # noqa: ARG002 - stands in for _wait
        closing = self._closing
        if not closing.refuses:  # a replica has come since this was the way; it may not be composed to the end yet
            with self._lock:
                route = self.route
            return route(call)
        self._refused(call.method.index, closing.reason)
        raise closing.refusal(call)

    # -- waiting for a slot ------------------------------------------------------------------------------------------

    def _wait(self, call: Call, lane: Lane | None = None) -> bool:
        """Let the call wait for a slot, or for room to wait."""
        queue = self._queue
        if queue.admission is not None and (error := queue.hopeless(call, lane)) is not None:
            return self._turn_away(call, error)
        if queue.parked or not queue.take_room():
            if self._send_elsewhere(call):
                return True
            if queue.waiting < queue.size:  # it says that it is full and is not
                self.suspect()
            if queue.sweep() and not queue.parked and queue.take_room():
                queue.join(call, lane)
                self._joined(call)
            elif queue.shed_for(call, lane):
                self._joined(call)
            elif self._reject:
                return self._turn_away(call, queue.overload(call))
            else:
                queue.park(call)
                queue.join(call, lane)
                self._joined(call)
                queue.admit_parked()
        else:
            queue.join(call, lane)
            self._joined(call)
        return not call.parked and call.turned_away is None

    def _send_elsewhere(self, call: Call) -> bool:
        """The queue is full, but the replica chosen may be busy while another is free."""
        if (lane := self._lanes.take_slot(call)) is None:
            return False
        call.lane = lane
        (lane.run_here or lane.send)(call)
        return True

    def _joined(self, call: Call) -> None:
        """A slot may have got free, the lanes have changed, or the call ended, while it was on its way to a backlog."""
        self._move_unserved()
        self._match()
        if self._refuses_all:
            self._closing.turn_away(call)
        if call.settled():
            self._queue.discard(call)

    def _move_unserved(self) -> None:
        """Bring calls that wait where no lane serves to where one does."""
        if self._queue.has_unserved():
            with self._lock:
                self._queue.move_unserved()
                self._closing.give_back()

    def _match(self) -> None:
        """Bring waiting calls and free slots together; whoever adds one of the two calls this."""
        self._fill_slots()
        while self._queue.unbound and self._queue.move_unbound(self._could_start):
            self._fill_slots()

    def _fill_slots(self) -> None:
        self._lanes.fill_slots()

    def _could_start(self, call: Call, lane: Lane) -> bool:  # noqa: ARG002 - for methods' limits
        """Whether *call* would get a slot if it waited for *lane*."""
        return bool(lane.free) and not lane.backlog

    # -- slots that get free -----------------------------------------------------------------------------------------

    def _compose_follow(self, lane: Lane) -> Callable[[Any], Call | None]:
        """What the replica of *lane* asks when the work of one call has ended; see `interfaces.SlotEvents.follow`."""
        return MethodType(self._follow, lane)

    def _slot_is_free(self) -> None:
        self._match()
        self._closing.tell_watch()

    # -- what calls tell, as `call.CallOwner` ------------------------------------------------------------------------

    def gave_up(self, call: Call, outcome: int, *, started: bool) -> None:
        """A caller, a deadline or a stop ended *call*: count it and free its place in the queue."""
        self._losses.gave_up(call, outcome, started=started)

    def abandoned_ended(self, call: Call) -> None:
        """The work has ended of a call that was given up while it ran; before its slot is freed."""
        self._losses.abandoned_ended(call)

    def batch_started(self, batch: Any, number: int) -> None:
        """*number* calls of the batch run; the others had been given up."""
        self._losses.batch_started(batch, number)

    def can_start(self, call: Call, holders: Collection[Work], *, beside: Lane | None = None) -> bool:
        """As `Lanes.can_start`."""
        return self._lanes.can_start(call, holders, beside, self.coming(), self._has_way)

    def _has_way(self, call: Call, lane: Lane, holders: Collection[Work]) -> bool:  # noqa: ARG002 - for methods' limits
        """Whether *call* can get a slot of *lane* while *holders* keep theirs."""
        return len(holders) < lane.slots - lane.withdrawn

    # -- what replicas tell ------------------------------------------------------------------------------------------

    def lost(self, lane: Lane, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        """
        The replica of *lane* died.

        Calls that surely had not started go to the head of the queue. One that may have started ends with
        ReplicaDiedError, unless it is idempotent and its guards have it started once more.
        """
        self._losses.lost(lane, not_started, maybe, cause)

    def refused(self, lane: Lane, work: Work, *, stuck: bool = False) -> None:
        """
        As `interfaces.SlotEvents.refused`, for the replica of *lane*: the work goes to the head of the queue.

        The slot that it was sent to stays taken, until the replica tells that it is free.
        """
        if stuck:
            self._losses.stuck(lane, work)
        else:
            self._losses.take_back([work])

    # -- the set of replicas -----------------------------------------------------------------------------------------

    def lane(self, id: str, index: int, seniority: int = 0) -> Lane:
        """
        A closed lane for a replica that is about to start, which reports to it; see `lane.LaneEvents`.

        Args:
            id: The replica's.
            index: Its position.
            seniority: Without a balancer the open lane with the lowest one serves, then that with the lowest index.
        """
        lane = Lane(id, index, seniority)
        lane.follow = self._guards.follow(lane, self._compose_follow(lane))
        lane.refused = partial(self.refused, lane)
        lane.ahead, lane.returned = partial(self._prefetch.take, lane), self._losses.returned
        return lane

    def open(self, lane: Lane, replica: Replica) -> None:
        """Send calls to *replica* from now on."""
        self.open_all({lane: replica})

    def open_all(self, replicas: Mapping[Lane, Replica]) -> None:
        """As `open`, for several together: any change takes time in proportion to all that there are."""
        with self._lock:
            self._closing.reopen()
            self._lanes.add(replicas)
            self._rebind()
        for lane in replicas:
            lane.fill()
        self._changed()

    def close_lane(self, lane: Lane) -> None:
        """As `close_lanes`, for one."""
        self.close_lanes([lane])

    def close_lanes(self, lanes: Collection[Lane]) -> None:
        """Send no more calls to replicas; those that wait for them go to others, those that they have go on there."""
        with self._lock:
            closing = self._lanes.close(lanes)
            if not closing:
                return
            self._rebind()  # first: who finds a lane without a backlog picks again, and must not pick it again
            for lane in closing:
                self._queue.take_backlog(lane)
                lane.take_free()
            self._closing.give_back()
        self._changed()

    def retire(self, lanes: Mapping[Lane, Callable[[], None]]) -> None:
        """Close *lanes*, and tell once for each, from any thread, when it will run nothing but abandoned calls."""
        self._closing.retire(lanes)
        self.close_lanes(lanes)
        self._closing.look_at_retiring()

    def set_balancer(
        self, balancer: Balancer | None, key_of: KeyOf | None = None, observe: Observe | None = None
    ) -> None:
        """
        Have *balancer* choose from now on; None has the first lane serve and the others stand by.

        *key_of* and *observe* are as for the constructor. Calls that wait move to where the new one has them wait. What
        the balancer raises here is fenced as always.
        """
        with self._lock:
            self._lanes.choose_by(balancer, key_of, observe)
            for lane in self._lanes.open:  # what was kept for the old one's choice is for the new one to choose
                self._queue.take_backlog(lane)
            self._rebind()
            self._closing.give_back()
        self._changed()

    def _changed(self) -> None:
        """The lanes, or what they serve, have changed: calls may wait in the wrong place, or beside a free slot."""
        self._move_unserved()
        self._match()
        self._closing.tell_watch()
        self.on_change()

    # -- the end -----------------------------------------------------------------------------------------------------

    def unavailable(self, error: Callable[[], Exception]) -> None:
        """As `Closing.give_up_replicas`."""
        if self._closing.give_up_replicas(error):
            self.on_change()

    def close_to_outsiders(self, why: str, watch: Callable[[], None]) -> None:
        """As `Closing.close_to_outsiders`."""
        self._closing.close_to_outsiders(why, watch)

    def drain(self, why: str, on_idle: Callable[[], None]) -> None:
        """As `Closing.drain`."""
        self._closing.drain(why, on_idle)

    @property
    def idle(self) -> bool:
        """Whether no call waits, and none runs but abandoned ones."""
        return self._closing.idle

    def end(self) -> None:
        """As `Closing.end`."""
        self._closing.end()
        self._guards.end()
        self._recovery.close()

    def after_fork(self, error: Callable[[], Exception]) -> None:
        """In a forked child: refuse every call with a new *error*; threads that are not here may hold its locks."""
        self._lock = self._lanes.lock = threading.RLock()
        self._closing.unavailable, self._closing.stopped = error, None
        self._refuses_all = True
        self.route = self._refuse

    # -- looking on --------------------------------------------------------------------------------------------------

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The replicas that are open, those that stand by included."""
        return self._lanes.open

    @property
    def avoided(self) -> frozenset[Lane]:
        """Those of them that serve only while no other is open."""
        return self._lanes.avoided

    @property
    def unavailability(self) -> Exception | None:
        """Why there is no replica and will be none; None while there is hope."""
        unavailable = self._closing.unavailable
        return None if unavailable is None else unavailable()

    @property
    def waiting(self) -> int:
        """Accepted calls that wait for a slot; never more than `queue_size`. May lag by a call."""
        return self._queue.waiting

    @property
    def parked(self) -> int:
        """Calls whose callers wait for room; may lag by a call."""
        return len(self._queue.parked)
