"""
The rules that `simulation.Simulation` checks, and the state that they need.

`simulation` lists the rules.
"""

from __future__ import annotations

from collections import Counter, deque
from itertools import count
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_testing.doubles.fake_replica import ScriptedError, calls_of
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_deploy_testing.simulation.simulation_setting import BALANCERS, HEALTHY, TICK, RaisingBalancer, Setting
from sage_plugins.config.nested_keys import Policies, RetryPolicy
from sage_plugins.errors import (
    CallCancelledError,
    CallTimeoutError,
    NoReplicaError,
    ReplicaDiedError,
    ServiceStoppedError,
)
from sage_plugins.routing.guarding.guards import Guards
from sage_plugins.routing.guarding.unguarded import UNGUARDED
from sage_plugins.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sage_plugins.call.batch import Batch
    from sage_plugins.call.call import Call
    from sage_plugins.interfaces import Balancer
    from sage_plugins.routing.lane import Lane
    from sage_plugins.routing.router import Router

from sage_deploy_testing.simulation.simulated_calls import BrokenRuleError, Place, SimulatedCall

__all__ = ["Course"]

#: The number of last steps in the message of a failure.
_TRAIL: Final = 25

#: Retries with an unlimited budget. Other tests check the budget.
UNBOUNDED: Final = RetryPolicy(budget=1.0, min=10**9)


class Course:
    """
    The state of a simulation, and the rules.

    Attributes:
        seed: Decides everything.
        setting: The settings drawn from it.
    """

    def __init__(
        self,
        seed: int,
        *,
        router: type[Router],
        setting: Setting | None,
        limits: bool,
    ) -> None:
        """
        Prepare the run. Nothing happens before `run`.

        Args:
            seed: Decides everything.
            router: The router class to test.
            setting: Settings to use instead of drawn ones.
            limits: Whether methods have limits of their own. It requires a `method_limits.MethodRouter`.
        """
        self.seed = seed
        self._random = random = Random(seed)  # noqa: S311 - no secret
        drawn = Setting.draw(random)
        if limits:
            drawn = drawn.limit(random)
        self.setting = setting = drawn if setting is None else setting
        self._clock = VirtualClock()
        self._counted: Counter[int] = Counter()
        self._refusals: Counter[str] = Counter()
        self._refusals_checked = 0
        self._broken: BrokenRuleError | None = None  # from a done-callback, where an exception would be dropped
        self._fenced = 0
        balancer: Balancer | None = BALANCERS[setting.balancer](random)
        self._router = router(
            "sim",
            self._clock,
            queue_size=setting.queue_size,
            reject=setting.reject,
            guards=Guards(Policies(UNBOUNDED)) if setting.retry_lost else UNGUARDED,
            count=self._count,
            refused=lambda _, reason: self._refusals.update((reason,)),
            balancer=balancer,
            on_balancer_error=self._balancer_failed,
            aside=lambda body: body(),  # at once: a thread would run at any time
        )
        self._balancer = balancer
        self._binding = balancer is not None and balancer.binding
        self._limited = limits
        # Whether calls start in the order in which they came: all calls, or with limits those of each method.
        self._single = len(setting.slots) == 1 if limits else setting.slots == (1,)
        self._places: list[Place] = []
        self._calls = 0
        self._order = count()
        self._live: dict[SimulatedCall, None] = {}  # accepted calls without an outcome, in the order of their routing
        self._all: list[SimulatedCall] = []  # accepted calls
        self._at_callers: list[SimulatedCall] = []  # under in_callers_thread: calls whose callers wait for their turn
        self._outcomes: Counter[int] = Counter()
        self._starts = 0
        self._sent_ahead = 0
        self._returned = 0
        self._together: Counter[Batch] = Counter()  # calls started in each batch
        self._last_start = [-1] * len(setting.methods)
        self._outsiders_out = False
        self._told = 0  # times that the router reported that it may be idle, since outsiders are out
        self._busy = False
        self._told_then = 0  # the same when the service was last seen at work
        self._draining = False
        self._unavailable = False
        self._stopping = False  # `end` was called: waiting calls may be refused
        self._calm = False  # near the end: nothing hangs or dies any more
        self._idle = 0  # times that the router reported idle
        self._trail: deque[str] = deque(maxlen=_TRAIL)

    def _story(self, error: Exception) -> str:
        what = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        trail = "\n  ".join(self._trail)
        return f"seed {self.seed}: {what}\n  {self.setting}\nlast steps:\n  {trail}"

    def _tell(self, what: str) -> None:
        self._trail.append(f"{self._clock.monotonic() - 1000:8.4f} s  {what}")

    def _later(self, ticks: int) -> float:
        return self._clock.monotonic() + ticks * TICK

    def _closed_to(self, call: SimulatedCall) -> bool:
        return self._draining or (self._outsiders_out and call.inside is None)

    def _give_order(self, call: SimulatedCall) -> None:
        # Not when it is made: a done-callback that runs while it is routed may route another call before it.
        if call.order < 0:
            call.order = next(self._order)

    def _check_refusal(self, call: SimulatedCall, error: Exception, *, told: int, stopped: bool) -> None:
        if told != 1:
            raise BrokenRuleError(f"call {call.number} was refused and the monitors heard of {told} refusals")
        if not call.unstarted() or call.ends:
            raise BrokenRuleError(f"call {call.number} was refused and {call!r}")
        if isinstance(error, ServiceStoppedError):
            right = stopped
        elif isinstance(error, NoReplicaError):
            right = self._unavailable
        else:
            right = self.setting.reject and self._router.waiting == self.setting.queue_size
            for place in () if self._binding else self._serving():
                if place.lane.free and place.has_turn(call.method, self._granted(place)):
                    raise BrokenRuleError(f"call {call.number} was refused though {place.lane!r} has a free slot")
                if self._limited and call.method.index in place.lane.methods.open:
                    raise BrokenRuleError(f"call {call.number} was refused though it could join a batch")
        if not right:
            raise BrokenRuleError(f"call {call.number} was refused without cause: {error!r}, {self._numbers()}")

    def _started(self, started: Call) -> None:
        call = self._mine(started)
        batch = call.batch
        if batch is not None:
            self._together[batch] += 1
            stays = not self._draining and not self._outsiders_out and call.lane in self._router.lanes
            halves = (each.since + (each.expires - each.since) / 2 for each in batch.calls)
            if (
                self._clock.monotonic() < min(call.may_wait_until, *halves)
                and len(batch.calls) < batch.plan.size
                and stays
            ):
                raise BrokenRuleError(f"the batch of call {call.number} was shut though others could join")
        call.starts += 1
        self._starts += 1
        if self._clock.monotonic() >= call.expires:
            raise BrokenRuleError(f"call {call.number} started when its time to start was over")
        allowed = 1 + (call.attempts > 0)
        if call.starts > allowed:
            raise BrokenRuleError(f"call {call.number} was started {call.starts} times")
        if call.over() or call.settled():
            raise BrokenRuleError(f"call {call.number} started and is over")
        if self._single and not call.overtaken:
            self._give_order(call)
            row = call.method.index if self._limited else 0
            if call.order < self._last_start[row]:
                raise BrokenRuleError(f"call {call.number} started after a call that came later")
            self._last_start[row] = call.order

    def _check_opening(self, call: SimulatedCall) -> None:
        """Check that a call that found a free slot waits for others to join, if all slots belong to one replica."""
        batch = call.batch
        if batch is None or self._balancer is not None or self.setting.in_callers_thread or self._outsiders_out:
            return
        if len(batch.calls) == 1 < batch.plan.size and batch.plan.wait > 0:
            raise BrokenRuleError(f"the batch of call {call.number} was shut though others could join")

    def _executed(self, executed: Call) -> None:
        call = self._mine(executed)
        call.executions += 1
        idempotent = call.method.idempotent if call.options.idempotent is None else call.options.idempotent
        if call.executions > 1 and not (idempotent and self.setting.retry_lost):
            raise BrokenRuleError(f"call {call.number} is not to run twice and did")

    @staticmethod
    def _mine(call: Call) -> SimulatedCall:
        if not isinstance(call, SimulatedCall):
            raise BrokenRuleError(f"{call!r} came from nowhere")
        return call

    def ahead(self, place: Place, call: Call, most: int) -> Sequence[Call]:
        """Take calls to run after *call* on the replica of *place*."""
        found = place.lane.ahead(call, most)
        self._tell(f"{self._name(found) if found else 'none'} sent ahead with {self._mine(call).number}")
        if len(found) > most:
            raise BrokenRuleError(f"{len(found)} calls were sent ahead, of at most {most}")
        for each in map(self._mine, (call, *found) if found else ()):
            each.sent_ahead = True
            idempotent = each.method.idempotent if each.options.idempotent is None else each.options.idempotent
            if not idempotent or each.lane is not call.lane:
                raise BrokenRuleError(f"call {each.number} was sent ahead and must not be")
        for each in map(self._mine, found):
            each.overtaken = call.lane.slots > 1
        self._sent_ahead += len(found)
        return found

    def returned(self, place: Place, calls: Sequence[Call]) -> None:
        """Give back calls that the replica has not started."""
        for call in map(self._mine, calls):
            call.came_back = True
        self._tell(f"{self._name(calls)} returned")
        self._returned += len(calls)
        place.lane.returned(calls)

    def lost(self, place: Place, not_started: Sequence[Any], maybe: Sequence[Any], cause: BaseException) -> None:
        """Report the death of the replica of *place* to the router."""
        waited = [self._mine(call) for work in not_started for call in calls_of(work)]
        ran = [self._mine(call) for work in maybe for call in calls_of(work)]
        self._tell(f"{place.lane.id} is lost with {self._name(waited)} not started and maybe {self._name(ran)}")
        gathered = [self._mine(call) for batch in place.open for call in batch.calls]
        for call in (*waited, *ran, *gathered):
            call.came_back, call.may_wait_until = True, -inf
            # Later calls may already have started on other replicas, or on this one at the same time.
            call.overtaken = place.closed or place.lane.slots > 1 or call.batch is not None or call in gathered
        place.closed = place.lost_already = True
        self._router.lost(place.lane, not_started, maybe, cause)
        if place.lane.abandoned or place.lane.inflight:
            raise BrokenRuleError(f"{place.lane!r} is dead and has {place.lane.abandoned} abandoned calls")
        for call in (*waited, *ran, *gathered):
            if not call.over() and call.lane is place.lane:
                raise BrokenRuleError(f"call {call.number} still belongs to {place.lane.id}, which is dead")
        for call in ran:
            idempotent = call.method.idempotent if call.options.idempotent is None else call.options.idempotent
            if not call.over() and not (idempotent and self.setting.retry_lost and call.starts <= 1):
                raise BrokenRuleError(f"call {call.number} was lost while it ran and is not over")

    # -- what the router reports -------------------------------------------------------------------------------------

    def _count(self, method: int, outcome: int, wait_s: float, run_s: float) -> None:
        if method not in range(len(self.setting.methods)) or wait_s < 0 or run_s < 0:
            raise BrokenRuleError(f"counted nonsense: {method}, {outcome}, {wait_s}, {run_s}")
        self._counted[outcome] += 1

    def _balancer_failed(self, error: BaseException) -> None:
        self._tell(f"balancer fenced: {error!r}")
        self._fenced += 1
        if self.setting.balancer in HEALTHY:
            raise BrokenRuleError(f"a healthy balancer was fenced: {error!r}")

    def _may_be_idle(self) -> None:
        self._told += 1

    def _on_idle(self) -> None:
        self._idle += 1
        if not self._is_idle():
            raise BrokenRuleError(f"said to be idle: {self._numbers()}")

    def _is_idle(self) -> bool:
        """Return whether nothing waits, each call with a slot has started, and all running calls were given up."""
        if self._router.waiting or self._router.parked or any(call.granted for call in self._at_callers):
            return False
        return not any(
            place.unstarted() or not all(call.settled() for calls in place.replica.runs for call in calls)
            for place in self._places
            if not place.lost_already
        )

    def ending(self, call: SimulatedCall, result: Any, error: BaseException | None) -> None:
        """Check the outcome of *call*, which will be published."""
        call.ends += 1
        if call.ends > 1:
            raise BrokenRuleError(f"call {call.number} has a second outcome: {error!r}")
        if not call.settled():
            raise BrokenRuleError(f"call {call.number} is published by somebody who did not take its outcome")
        outcome = _outcome_of(error)
        self._outcomes[outcome] += 1
        if self._outcomes[outcome] > self._counted[outcome]:
            raise BrokenRuleError(
                f"call {call.number} ends as {Outcome.NAMES[outcome]} and was not counted so once: ended "
                f"{dict(self._outcomes)}, counted {dict(self._counted)}"
            )
        if error is None and result != ("answer", call.args):
            raise BrokenRuleError(f"call {call.number} gets the answer {result!r}, which is another's")
        if not self._is_plausible(call, outcome, error):
            raise BrokenRuleError(
                f"call {call.number}, started {call.starts} times, admitted: {call.admitted}, has no cause to end as "
                f"{Outcome.NAMES[outcome]}: {error!r}"
            )
        self._tell(f"call {call.number} ends as {Outcome.NAMES[outcome]}")
        self._live.pop(call, None)

    def _is_plausible(self, call: SimulatedCall, outcome: int, error: BaseException | None) -> bool:
        now = self._clock.monotonic()
        if isinstance(error, CallTimeoutError):
            return now >= (call.deadline if error.stage == "run" else call.expires)
        if now > call.deadline and call.registered and self._clock.next_at() > now:
            return False
        if outcome in (Outcome.OK, Outcome.ERROR):
            return call.starts > 0 and now < call.deadline
        if outcome == Outcome.CANCELLED:
            return call.given_up
        if outcome == Outcome.DIED:
            return (call.starts > 0 or call.sent_ahead) and call.came_back
        accepted = call.admitted or call.came_back
        return self._stopping or self._unavailable or (self._closed_to(call) and not accepted)

    def ended(self, call: SimulatedCall) -> None:
        """Check *call* after its outcome was published."""
        if not call.over():
            raise BrokenRuleError(f"call {call.number} was published and is not over")

    # -- rules -------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Check the rules that hold between steps."""
        router, setting = self._router, self.setting
        if self._broken is not None:
            raise self._broken
        if self._outcomes != self._counted:
            raise BrokenRuleError(
                f"a call was not counted so once: ended {dict(self._outcomes)}, counted {dict(self._counted)}"
            )
        waiting, parked = router.waiting, router.parked
        if waiting > setting.queue_size:
            raise BrokenRuleError(f"{waiting} calls wait and queue_size is {setting.queue_size}")
        if parked and waiting < setting.queue_size:
            raise BrokenRuleError(f"{parked} calls are parked and there is room: {self._numbers()}")
        if parked and setting.reject and not any(call.came_back for call in self._live):
            raise BrokenRuleError(f"{parked} calls are parked by a service that rejects")
        self._check_parked(parked)
        held = waiting + parked + self._check_lanes()
        if held != len(self._live):
            raise BrokenRuleError(f"no outcome: {self._name(self._live)}, of which {held} are held; {self._numbers()}")
        self._check_idle()
        self._check_deadlines()

    def _check_parked(self, parked: int) -> None:
        """Check which calls are parked, and that none is admitted before another that came first."""
        held_back = 0
        for call in self._live:
            if not call.parked:
                call.admitted = True
                continue
            held_back += 1
            if not call.came_back and self._closed_to(call):
                raise BrokenRuleError(f"call {call.number} is parked by a service that takes no more")
        if held_back != parked:
            raise BrokenRuleError(f"{held_back} calls hold that they are parked, and the router {parked}")
        if parked:
            waiting = [call for call in self._live if call.lane is None and not call.came_back]
            waiting.sort(key=lambda call: call.order)
            if [call.parked for call in waiting] != sorted(call.parked for call in waiting):
                raise BrokenRuleError(f"calls were admitted before others that came first: {self._numbers()}")

    def _check_idle(self) -> None:
        router, idle = self._router, self._is_idle()
        if self._draining and idle and not self._idle:
            raise BrokenRuleError("the service is idle and the router did not say so")
        if router.idle is not idle:
            raise BrokenRuleError(f"the router says that it is {'' if router.idle else 'not '}idle: {self._numbers()}")
        if not idle:
            self._told_then = self._told
        elif self._outsiders_out and not self._draining and self._busy and self._told == self._told_then:
            raise BrokenRuleError("the service has become idle and nobody was told to look")
        self._busy = not idle

    def _serving(self) -> list[Place]:
        """Return the replicas that take calls. Without a balancer that is the first one; the others are standbys."""
        places = [place for place in self._places if not place.closed]
        serving = sorted(places, key=lambda each: (each.seniority, each.lane.index))
        return serving[:1] if self.setting.balancer == "none" else serving

    def _granted(self, place: Place) -> list[SimulatedCall]:
        return [call for call in self._at_callers if call.granted and call.lane is place.lane]

    def _check_lanes(self) -> int:
        """Check the rules of slots. Return the number of calls on replicas that have no outcome."""
        now = self._clock.monotonic()
        held = sum(call.granted and not call.over() for call in self._at_callers)
        serving = self._serving()
        for place in self._places:
            lane, replica = place.lane, place.replica
            runs = replica.runs
            held += sum(not call.over() for calls in (place.unstarted(), *runs) for call in calls)
            abandoned = sum(all(call.over() for call in calls) for calls in runs)
            if place.lost_already:
                continue
            granted = self._granted(place)
            taken = place.taken + len(granted)
            if len(lane.free) + lane.withdrawn + taken != lane.slots:
                raise BrokenRuleError(
                    f"{lane!r}: {len(lane.free)} slots free, {lane.withdrawn} withdrawn, {taken} taken, of {lane.slots}"
                )
            if lane.abandoned != abandoned:
                raise BrokenRuleError(f"{lane!r}: {abandoned} abandoned calls run, counted are {lane.abandoned}")
            place.check_standby(granted, serves=place in serving or place.closed)
            if self._limited:
                place.check_turns(granted)
                place.check_batches(now, all_done=self._clock.next_at() > now)
            if taken < lane.slots and place in serving:
                for call in self._could_take(lane):
                    if place.has_turn(call.method, granted):
                        raise BrokenRuleError(f"calls wait while {lane!r} has a free slot: {self._numbers()}")
        return held

    def _could_take(self, lane: Lane) -> list[SimulatedCall]:
        """Return the calls that wait for a slot of *lane* or of any. Calls without a key are bound to no replica."""
        waiting = [self._mine(call) for call in lane.backlog]
        if self._balancer is not None and self._balancer.binding:
            others = (other.backlog for other in self._router.lanes if other is not lane)
            waiting += [self._mine(call) for backlog in others for call in backlog if call.options.key is None]
        return waiting

    def _check_deadlines(self) -> None:
        """Check that watched calls have ended in time. It does nothing while a timer is due."""
        now = self._clock.monotonic()
        if self._clock.next_at() <= now:
            return
        for call in self._live:
            # A call that waits for its second start is watched until its deadline, not until it should have started.
            until = call.expires if call.unstarted() and not call.attempts else call.deadline
            if call.registered and now >= until:
                raise BrokenRuleError(f"call {call.number} is watched and goes on though its time is over")

    def _check_nothing_left(self) -> None:
        router = self._router
        if self._live:
            raise BrokenRuleError(f"no outcome: {self._name(self._live)}")
        room = router._queue.free  # noqa: SLF001 - a token that is lost shows nowhere else
        if room != self.setting.queue_size:
            raise BrokenRuleError(f"{room} of {self.setting.queue_size} places in the queue are free at the end")
        if router.waiting or router.parked or self._at_callers:
            raise BrokenRuleError(f"calls wait at the end: {self._numbers()}")
        if not self._idle:
            raise BrokenRuleError("the router never said that the service is idle")
        for call in self._all:
            if call.ends != 1 or not call.over():
                raise BrokenRuleError(f"call {call.number} has {call.ends} outcomes and {call!r}")
            if call.called_back != call.registered:
                raise BrokenRuleError(
                    f"call {call.number} has {call.registered} done-callbacks, which ran {call.called_back} times"
                )
        if isinstance(self._balancer, RaisingBalancer) and self._balancer.mistakes != self._fenced:
            raise BrokenRuleError(f"the balancer failed {self._balancer.mistakes} times, reported {self._fenced} times")
        if self._calls != len(self._all) + self._refusals.total():
            raise BrokenRuleError(f"{self._calls} calls, {len(self._all)} accepted, {self._refusals.total()} refused")

    def _numbers(self) -> str:
        lanes = ", ".join(f"{place.lane!r}{' closed' * place.closed}" for place in self._places)
        return f"{self._router.waiting} wait, {self._router.parked} parked, {lanes}"

    @staticmethod
    def _name(calls: Any) -> str:
        return ", ".join(str(call.number) for call in calls) or "none"


def _outcome_of(error: BaseException | None) -> int:
    if error is None:
        return Outcome.OK
    for kind, outcome in (
        (ScriptedError, Outcome.ERROR),
        (CallTimeoutError, Outcome.TIMEOUT),
        (CallCancelledError, Outcome.CANCELLED),
        (ReplicaDiedError, Outcome.DIED),
        ((ServiceStoppedError, NoReplicaError), Outcome.STOPPED),
    ):
        if isinstance(error, kind):
            return outcome
    raise BrokenRuleError(f"a call ends with {error!r}")
