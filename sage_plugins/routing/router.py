"""
Sends each call to a free slot, or puts it into the queue.

The router has no thread of its own: callers, workers and timers run it. `docs/design/who-waits-where.md` has a picture.

* Each replica has a *lane* with one token for each free slot. A caller takes a token and sends its call there.
* Without a free slot, a call takes one of the `queue_size` tokens of *room* and joins the *backlog*. A freed slot goes
  to the oldest call of the backlog.
* Without room, a call is refused (`reject`) or *parked* (`block`): it joins the backlog without a token, and its caller
  waits. Freed room goes to the oldest parked call.

Tokens are items of lists. `pop` and `append` are atomic, so the limits are exact without a lock.
A thread that frees room then looks for waiting calls. A thread that queues a call then looks for room. So at least one
of the two sees the other.
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
        route: Accepts a call. `route(call)` returns True if it was sent or queued. It returns False if it is parked or
            was refused while it joined the queue; `Call.wait_admitted` then waits or raises the error.
            Raises OverloadedError if the queue is full and the service rejects, ServiceStoppedError once it drains,
            NoReplicaError if there is no replica and will be none. Replaced when the replicas change, so look it up for
            each call.
        on_change: Called after the replicas or the balancer changed, in the thread that changed them, without the lock.
        coming: Returns the lanes of replicas that may open soon; must not wait.
        on_unserved: As for the constructor. A later value takes effect when the replicas next change.
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
            service: Its name, for messages.
            clock: For deadlines.
            queue_size: Number of calls that may wait; 0 accepts a call only if a slot is free.
            reject: If the queue is full, refuse the call. Otherwise its caller waits.
            guards: Handle calls that fail; made for this router alone.
            count: `count(method, outcome, wait_s, run_s)` for calls that end on this side.
            refused: `refused(method, reason)` for calls that were not accepted.
            given_up: Called after each call that a caller gave up, even if another part counts it.
            balancer: Chooses among several replicas; without one, the first gets all calls and the others stand by.
            key_of: Returns the key of a call whose caller gave none.
            observe: Called with the end of each call that the balancer placed.
            on_balancer_error: Called when the balancer failed; round robin then replaces it.
            aside: Replaces `CallOwner.aside`.
            refuses_late: Refuse calls that cannot be answered in time.
            sheds: As `Queue.sheds`.
            overloaded: Called with the reason of the first refusal after a calm period.
            on_unserved: Called for each call that comes while no replica takes calls; must not wait.
        """
        self.service = service
        self.clock = clock
        if aside is not None:
            self.aside = aside
        self.on_change = lambda: None
        self.coming = lambda: ()
        self.on_unserved = on_unserved
        self._reject, self._refused = reject, refused
        self.minds_priority = sheds == LOWEST  # whether calls start in the order of their priority
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
        self.on_result = self.on_error = None  # an instance attribute is found faster
        guards.join(*self._parts(refused))
        self._recovery = SlotRecovery(
            self._lanes, self._queue, clock, again=self._losses.again, match=self._slot_is_free
        )
        self.suspect, self.suspect_loss_of = self._recovery.suspect, self._recovery.suspect_loss_of
        self._prefetch = self._make_prefetch()
        self._follow = compose_follow(self._queue, self._closing, self._slot_is_free)
        self._refuses_all = False  # whether a call is refused even while it joins the queue
        self._superseded: list[None] = []  # gets an item when the route that holds it is out of date
        self._rebind()

    def _make_prefetch(self) -> Prefetch:
        return Prefetch(self._lanes, self._queue, self._match)

    # -- the route of a call -----------------------------------------------------------------------------------------

    def _rebind(self) -> None:
        """Compose the shortest route for the present replicas; under the lock, once calls can come."""
        superseded, self._superseded = self._superseded, []
        self._lanes.arrange()
        self._queue.assign_backlogs()
        self._refuses_all = self._closing.refuses_all
        self._compose_route()
        # Last, because a caller on an old route queues its call, reads this, and then reads the state set above.
        superseded.append(None)

    def _compose_route(self) -> None:
        """Set `route` for the lanes as they are arranged; under the lock, once calls can come."""
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
            # If calls wait, this one queues behind them even if a slot is free. So calls keep their order.
            if free and not backlog:
                try:
                    take()
                except IndexError:  # another caller took it
                    pass
                else:
                    call.lane = lane
                    run(call)
                    return True
            elif shared and not parked:
                # `_wait` inlined for the case that there is room.
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
            # Outside the `except` clauses, so that an error from here on is not chained to theirs.
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
        if not closing.refuses:  # a replica has opened since; its route may still be in the making, under the lock
            with self._lock:
                route = self.route
            return route(call)
        self._refused(call.method.index, closing.reason)
        raise closing.refusal(call)

    # -- waiting for a slot ------------------------------------------------------------------------------------------

    def _wait(self, call: Call, lane: Lane | None = None) -> bool:
        """Let the call wait for a slot, or for room; False if it is parked or was refused."""
        queue = self._queue
        if queue.admission is not None and (error := queue.hopeless(call, lane)) is not None:
            return self._turn_away(call, error)
        if queue.parked or not queue.take_room():
            if self._send_elsewhere(call):
                return True
            if queue.waiting < queue.size:  # there is no room, yet the queue is not full: a token may be lost
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
        """Send a call that finds the queue full to any replica with a free slot; False if there is none."""
        if (lane := self._lanes.take_slot(call)) is None:
            return False
        call.lane = lane
        (lane.run_here or lane.send)(call)
        return True

    def _joined(self, call: Call) -> None:
        """Catch up on what happened while the call joined: a slot got free, the lanes changed, or the call ended."""
        self._move_unserved()
        self._match()
        if self._refuses_all:
            self._closing.turn_away(call)
        if call.settled():
            self._queue.discard(call)

    def _move_unserved(self) -> None:
        """Move calls from backlogs that no lane serves to backlogs that one serves."""
        if self._queue.has_unserved():
            with self._lock:
                self._queue.move_unserved()
                self._closing.give_back()

    def _match(self) -> None:
        """Give free slots to waiting calls. Each thread that adds a slot or a call runs this."""
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
        """Return what the replica of *lane* calls when a call's work has ended; see `interfaces.SlotEvents.follow`."""
        return MethodType(self._follow, lane)

    def _slot_is_free(self) -> None:
        self._match()
        self._closing.tell_watch()

    # -- what calls report, as `call.CallOwner` ----------------------------------------------------------------------

    def gave_up(self, call: Call, outcome: int, *, started: bool) -> None:
        """Count *call*, which a caller, a deadline or a stop ended, and free its place in the queue."""
        self._losses.gave_up(call, outcome, started=started)

    def abandoned_ended(self, call: Call) -> None:
        """Note that the method of an abandoned call has ended; the worker frees the slot next."""
        self._losses.abandoned_ended(call)

    def batch_started(self, batch: Any, number: int) -> None:
        """Note that *number* calls of the batch run; the others had been given up."""
        self._losses.batch_started(batch, number)

    def can_start(self, call: Call, holders: Collection[Work], *, beside: Lane | None = None) -> bool:
        """As `Lanes.can_start`."""
        return self._lanes.can_start(call, holders, beside, self.coming(), self._has_way)

    def _has_way(self, call: Call, lane: Lane, holders: Collection[Work]) -> bool:  # noqa: ARG002 - for methods' limits
        """Whether *call* can get a slot of *lane* while *holders* keep theirs."""
        return len(holders) < lane.slots - lane.withdrawn

    # -- what replicas report ----------------------------------------------------------------------------------------

    def lost(self, lane: Lane, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        """
        Handle the calls of *lane*, whose replica died.

        Calls that surely had not started go to the head of the queue. A call that may have started ends with
        ReplicaDiedError, unless it is idempotent and the guards start it once more.
        """
        self._losses.lost(lane, not_started, maybe, cause)

    def refused(self, lane: Lane, work: Work, *, stuck: bool = False) -> None:
        """
        As `interfaces.SlotEvents.refused`, for the replica of *lane*: put the work back at the head of the queue.

        Its slot stays taken until the replica reports it free.
        """
        if stuck:
            self._losses.stuck(lane, work)
        else:
            self._losses.take_back([work])

    # -- the set of replicas -----------------------------------------------------------------------------------------

    def lane(self, id: str, index: int, seniority: int = 0) -> Lane:
        """
        Return a closed lane for a replica that is about to start and will report to it; see `lane.LaneEvents`.

        Args:
            id: The replica's.
            index: The replica's position.
            seniority: Without a balancer, the open lane with the lowest seniority serves; ties go to the lowest index.
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
        """As `open`, for several replicas in one change: each change takes time in proportion to all replicas."""
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
        """Send no more calls to these replicas. Running calls go on there; waiting calls move to other replicas."""
        with self._lock:
            closing = self._lanes.close(lanes)
            if not closing:
                return
            self._rebind()  # first: a caller whose lane has no backlog picks again, and must not pick a closing one
            for lane in closing:
                self._queue.take_backlog(lane)
                lane.take_free()
            self._closing.give_back()
        self._changed()

    def retire(self, lanes: Mapping[Lane, Callable[[], None]]) -> None:
        """Close *lanes*; call each one's function once, from any thread, when it runs nothing but abandoned calls."""
        self._closing.retire(lanes)
        self.close_lanes(lanes)
        self._closing.look_at_retiring()

    def set_balancer(
        self, balancer: Balancer | None, key_of: KeyOf | None = None, observe: Observe | None = None
    ) -> None:
        """
        Replace the balancer; the arguments are as for the constructor.

        Waiting calls move to the backlogs that the new balancer chooses. If it raises here, round robin replaces it.
        """
        with self._lock:
            self._lanes.choose_by(balancer, key_of, observe)
            for lane in self._lanes.open:  # the new balancer places again what the old one placed
                self._queue.take_backlog(lane)
            self._rebind()
            self._closing.give_back()
        self._changed()

    def _changed(self) -> None:
        """Move and start calls after a change of lanes: they may wait in a wrong backlog, or while a slot is free."""
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
        """Whether no call waits and only abandoned calls run."""
        return self._closing.idle

    def end(self) -> None:
        """As `Closing.end`."""
        self._closing.end()
        self._guards.end()
        self._recovery.close()

    def after_fork(self, error: Callable[[], Exception]) -> None:
        """In a forked child: refuse every call with a new *error*. Renew the lock, which a missing thread may hold."""
        self._lock = self._lanes.lock = threading.RLock()
        self._closing.unavailable, self._closing.stopped = error, None
        self._refuses_all = True
        self.route = self._refuse

    # -- its state, for others ---------------------------------------------------------------------------------------

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The open lanes, including those that stand by."""
        return self._lanes.open

    @property
    def avoided(self) -> frozenset[Lane]:
        """The open lanes that get calls only while no other is open."""
        return self._lanes.avoided

    @property
    def unavailability(self) -> Exception | None:
        """Why there is no replica and will be none; None while one may still come."""
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
