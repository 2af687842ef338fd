"""
Decides what happens to calls without an answer: the replica died, refused or returned them, or their caller gave up.

Calls that surely have not started go back to the head of the queue. Calls that may have started end or are retried. A
call that its caller gave up while it ran is *abandoned*: it holds its slot until its method ends.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sage_plugins.errors import ReentrantCallError, ReplicaDiedError
from sage_plugins.routing.guarding.unguarded import NO_RETRIES
from sage_plugins.routing.prefetch import may_run_twice
from sage_plugins.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sage_plugins.call.batch import Batch
    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.routing.draining import Closing
    from sage_plugins.routing.lane import Lane, Lanes
    from sage_plugins.routing.queue import Queue

__all__ = ["Losses"]


class Losses:
    """
    Takes back calls that replicas of one service have lost or not started, and counts calls that are given up.

    Attributes:
        retries: Number of calls sent again, by reason. Their replica died: `not_started`, or `idempotent` if they may
            have run. Their method raised: `exception`. A second attempt was sent: `hedge`.
    """

    def __init__(  # noqa: PLR0913 - the parts of the router that it works with, and its settings
        self,
        service: str,
        clock: Clock,
        lanes: Lanes,
        queue: Queue,
        closing: Closing,
        *,
        match: Callable[[], None],
        close_lane: Callable[[Lane], None],
        not_again: Callable[[Call], str],
        overdue: Callable[[Call], None],
        stopped: Callable[[Call], None],
        count: Callable[[int, int, float, float], None],
        given_up: Callable[[], None],
    ) -> None:
        """
        Begin with nothing lost.

        Args:
            service: Its name, for messages.
            clock: Measures how long calls took.
            lanes: Its replicas.
            queue: Where calls wait again.
            closing: Tells whether waiting calls can still get a slot.
            match: Gives free slots to waiting calls.
            close_lane: Closes a lane.
            not_again: Returns why an idempotent call whose replica died is not retried; "" if it is retried.
            overdue: Called for a call that was given up at its deadline and may still run.
            stopped: Called when the method of an abandoned call has ended.
            count: As for `Router`.
            given_up: As for `Router`.
        """
        self.retries: Counter[str] = Counter(not_started=0, idempotent=0, exception=0)
        self._service = service
        self._clock = clock
        self._lanes = lanes
        self._queue = queue
        self._closing = closing
        self._match = match
        self._close_lane = close_lane
        self._not_again = not_again
        self._overdue = overdue
        self._stopped = stopped
        self._count = count
        self._given_up = given_up

    # -- a caller gave up --------------------------------------------------------------------------------------------

    def gave_up(self, call: Call, outcome: int, *, started: bool) -> None:
        """As `Router.gave_up`."""
        spent = self._clock.monotonic() - call.since
        if started:
            with self._lanes.lock:
                self.count_abandoned(call, 1)
            if not call.lane.give_up(call, outcome, spent):
                # Only the replica knows how long the call waited before it ran. All of its time counts as run time.
                self._count(call.method.index, outcome, 0.0, spent)
            if outcome == Outcome.TIMEOUT:
                self._overdue(call)
        else:
            self._queue.discard(call)
            self._count(call.method.index, outcome, spent, 0.0)
        self._given_up()
        self._closing.tell_watch()

    def drop(self, call: Call, *, started: bool) -> None:
        """Drop this attempt of *call* uncounted: another attempt has the outcome and is counted."""
        if started:
            with self._lanes.lock:
                self.count_abandoned(call, 1)
            now = self._clock.monotonic()
            call.lane.give_up(call, Outcome.DROPPED, now - call.since)
            if now >= call.deadline:
                self._overdue(call)
        else:
            self._queue.discard(call)
        self._closing.tell_watch()

    def abandoned_ended(self, call: Call) -> None:
        """As `Router.abandoned_ended`."""
        self._stopped(call)
        with self._lanes.lock:
            # This may run before `gave_up` has counted the call, so the number may be -1 for a moment.
            self.count_abandoned(call, -1)

    def batch_started(self, batch: Batch, number: int) -> None:
        """As `Router.batch_started`."""
        with self._lanes.lock:
            change = batch.started(number)
            if change:  # without a change the batch may have no lane any more
                batch.lane.count_abandoned(change)

    def count_abandoned(self, call: Call, change: int) -> None:
        """Count one abandoned call more or less; it may share its slot with others. Under the lock."""
        together = call.batch or call.bundle
        call.lane.count_abandoned(change if together is None else together.count_abandoned(change))

    # -- a replica died ----------------------------------------------------------------------------------------------

    def lost(self, lane: Lane, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        """As `Router.lost`."""
        with self._lanes.lock:
            self._queue.returning += 1
        self._close_lane(lane)
        again: list[Call] = list(not_started)
        twice: set[Call] = set()
        for call in maybe:
            why_not = self._not_again(call) if may_run_twice(call) else NO_RETRIES
            if why_not:
                call.give_up(self._death(call, lane, cause, why_not), Outcome.DIED)
            else:
                twice.add(call)
                again.append(call)
        with self._lanes.lock:
            # Nothing runs there any more, and its slots do not come back.
            lane.dead = True
            lane.abandoned = 0
            lane.withdrawn = lane.slots - len(lane.free)
        sent = [0, 0]
        for call in reversed(again):
            if call.unstarted() or call.allow_second_start():
                self.put_back(call)
                sent[call in twice] += 1
        with self._lanes.lock:
            self.retries["not_started"] += sent[False]
            self.retries["idempotent"] += sent[True]
            self._queue.returning -= 1
            self._closing.give_back()  # a drain may have taken free slots back while no call waited
        self._match()
        self._closing.tell_watch()

    def _death(self, call: Call, lane: Lane, cause: BaseException, why_not: str) -> ReplicaDiedError:
        msg = (
            f"{self._service}.{call.method.name} was running on replica {lane.id} when that died ({cause}); it may "
            f"or may not have had its effect. {why_not}"
        )
        where = {"service": self._service, "method": call.method.name, "replica": lane.id, "node": lane.node}
        return ReplicaDiedError(msg, maybe_executed=True, **where)

    # -- calls that did not start ------------------------------------------------------------------------------------

    def stuck(self, lane: Lane, call: Call) -> None:
        """
        Queue *call* again: the calls from within which it was made hold all slots of *lane*.

        If that is so on every serving lane, the call would wait for itself, and ends with ReentrantCallError.
        """
        call.stuck_in |= {lane}
        self.take_back([call])
        if call.stuck_in.issuperset(self._lanes.serving):
            name = f"{self._service}.{call.method.name}"
            msg = (
                f"{name} would never start: every slot that it could get is held by a method that itself waits for "
                "it, over other services. Give the service more threads or replicas, or do not call a service from "
                "within its own calls"
            )
            error = ReentrantCallError(msg, service=self._service, method=call.method.name)
            call.give_up(error, Outcome.ERROR, only_unstarted=True)

    def returned(self, calls: Sequence[Call]) -> None:
        """As `interfaces.SlotEvents.returned`."""
        self.take_back(calls)
        self._closing.tell_watch()  # perhaps only abandoned calls are left in the bundle

    def again(self, call: Call) -> None:
        """Queue a lost call again if it has not started; else end it as cancelled if it has no outcome."""
        if call.unstarted():
            if not call.expire():
                self._return(call)
        elif not call.over():
            call.claim_outcome()
            call.publish(None, call.cancelled_error())

    def take_back(self, calls: Sequence[Call]) -> None:
        """Queue again calls that were sent and did not start."""
        for call in reversed(calls):
            if not call.mark_unstarted():
                call.owner.abandoned_ended(call)
                continue
            self.leave_bundle(call)
            if not call.expire():  # it was claimed, so perhaps no thread watched `expires`
                self._return(call)
        with self._lanes.lock:
            self._closing.give_back()  # a drain may have taken free slots back while no call waited
        self._match()

    def leave_bundle(self, call: Call) -> None:
        """Take *call* out of its bundle, if it is in one."""
        bundle = call.bundle
        if bundle is not None:
            with self._lanes.lock:
                bundle.lane.count_abandoned(bundle.leave(call))

    def put_back(self, call: Call) -> None:
        """Put *call*, which no other part holds, at the head of the queue; `match` must follow."""
        self.leave_bundle(call)
        self._return(call)

    def count_failed(self, call: Call) -> None:
        """As `CallOwner.count_failed`."""
        self._count(call.method.index, Outcome.ERROR, call.began - call.since, call.ended - call.began)

    def _return(self, call: Call) -> None:
        call.lane = None
        call.returned = True
        if self._closing.ended:
            call.give_up(self._closing.refusal(call), Outcome.STOPPED)
        else:
            self._queue.rejoin(call)
