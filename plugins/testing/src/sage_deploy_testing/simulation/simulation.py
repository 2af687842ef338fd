"""
A router and its replicas in virtual time, driven by one seed.

`Simulation(seed).run()` builds a router with settings drawn from the seed. Its replicas answer, raise, hang, answer
after the deadline, or die at the worst moments. Its callers send, watch, cancel and abandon calls while replicas come
and go. After every step it checks the rules below. A broken rule is a `SimulationFailure` with the seed, the settings
and the last steps. The same seed gives the same events in every process.

The rules:

* An accepted call has exactly one outcome, and is counted once, before its callers learn of it; a refused call has
  none.
* A call is started once; twice if it is idempotent, its replica died and the service retries. Nothing starts after its
  time to start is over.
* At most `queue_size` calls wait. No call is refused or blocked while there is room, and none waits while a slot is
  free.
* No replica gets more calls than it has slots. With one slot, calls start in the order in which they came.
* A call of a method with a limit also waits for that limit, and each method's calls start in order. No replica runs
  more calls of a method at once than its limit.
* A call that is answered in a batch is in exactly one, and gets its own answer. A batch has calls of one method only,
  at most its size. It takes one slot and one place under the limit. It waits no longer than it may, and no call in it
  misses its deadline meanwhile.
* Only calls that may run twice are sent ahead, to run in order in one slot. If that slot is slow, unstarted calls go
  back to the queue.
* A watched call ends at its deadline at the latest. Every done-callback runs once.
* A drain finishes accepted calls, and reports that the service is idle exactly when it is.
* What an exception between two steps of a thread loses, such as a slot, is found within a second. Nothing else is
  reported as lost.
* At the end nothing is left: no waiting call, no used room, no used slot, no timer.

There are no threads, so it does not test what happens between two steps of a router method.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import wait
from contextvars import copy_context
from math import inf
from typing import TYPE_CHECKING, ClassVar, Final

from sage_deploy_testing.doubles.fake_replica import Act, Behaviour, FakeReplica
from sage_deploy_testing.simulation.report import Report, SimulationFailure
from sage_deploy_testing.simulation.simulated_calls import BrokenRuleError, Place, SimulatedCall
from sage_deploy_testing.simulation.simulation_rules import Course
from sage_deploy_testing.simulation.simulation_setting import TICK, Setting
from sage_plugins.call.current import CURRENT
from sage_plugins.errors import NoReplicaError, OverloadedError, ServiceStoppedError
from sage_plugins.routing.router import Router
from sage_plugins.values import CallOptions

if TYPE_CHECKING:
    from sage_plugins.call.call import Call

__all__ = ["Report", "Setting", "Simulation", "SimulationFailure"]


#: Seconds within which lost slots and places in the queue are found.
HEALED_AFTER_S: Final = 1.0

#: The steps, with their weights.
_STEPS: Final = (
    ("call", 40),
    ("advance", 40),
    ("watch", 5),
    ("futures_wait", 1),
    ("look", 5),
    ("cancel", 6),
    ("abandon", 6),
    ("release", 6),
    ("lose", 3),
    ("suspect", 3),
    ("replace", 8),
    ("kill", 2),
    ("close", 1),
    ("unavailable", 2),
    ("close_to_outsiders", 0.5),
    ("drain", 0.5),
)


class Simulation(Course):
    """
    One simulated run; see the module's docstring.

    Attributes:
        seed: Decides everything.
        setting: The settings drawn from it.
    """

    #: Name and weight of each step.
    STEPS: ClassVar[tuple[tuple[str, float], ...]] = _STEPS

    def __init__(
        self,
        seed: int,
        *,
        router: type[Router] = Router,
        replica: type[FakeReplica] = FakeReplica,
        setting: Setting | None = None,
        limits: bool = False,
    ) -> None:
        """
        Prepare the run. Nothing happens before `run`.

        Args:
            seed: Decides everything.
            router: The router class to test.
            replica: The class of the fake replicas.
            setting: Settings to use instead of drawn ones.
            limits: Whether methods have limits of their own. It requires a `method_limits.MethodRouter`.
        """
        super().__init__(seed, router=router, setting=setting, limits=limits)
        self._replica: type[FakeReplica] = replica
        self._behaviours: Counter[str] = Counter()
        self._steps: Counter[str] = Counter()

    # -- the course of events ----------------------------------------------------------------------------------------

    def run(self) -> Report:
        """
        Run the simulation.

        Raises:
            SimulationFailure: A rule was broken, or the router raised an exception that it must not raise.
        """
        try:
            self._play()
        except Exception as error:
            raise SimulationFailure(self._story(error)) from error
        return Report(
            calls=self._calls,
            refused=self._refusals.total(),
            outcomes=self._outcomes,
            started=self._starts,
            batches=Counter(self._together.values()),
            sent_ahead=self._sent_ahead,
            returned=self._returned,
            behaviours=self._behaviours,
            steps=self._steps,
        )

    def _play(self) -> None:
        random, setting = self._random, self.setting
        for index, slots in enumerate(setting.slots):
            self._clock.call_at(self._later(random.choice((0, 0, 4))), lambda i=index, s=slots: self._open(i, s))  # type: ignore[misc]
        steps, weights = zip(*self.STEPS, strict=True)
        for _ in range(setting.steps):
            step = random.choices(steps, weights)[0]
            self._steps[step] += 1
            getattr(self, f"_step_{step}")()
            self._check()
        self._finish()

    def _move(self, seconds: float) -> None:
        """Advance one timer at a time, and check the rules after each."""
        clock = self._clock
        until = clock.monotonic() + seconds
        while clock.next_at() <= until:
            clock.run_until(clock.next_at())
            self._check()
        clock.run_until(until)
        self._check_deadlines()

    def _check(self) -> None:
        self._wake_callers()
        super()._check()

    # -- steps -------------------------------------------------------------------------------------------------------

    def _step_call(self) -> None:
        for _ in range(self._random.choice((1, 1, 1, 2, 3, 6))):
            self._route(self._make())

    def _step_advance(self) -> None:
        ticks = self._random.choice((0, 1, 1, 2, 3, 5, 8, 20))
        self._tell(f"advance {ticks * TICK:g} s")
        self._move(ticks * TICK)

    def _step_lose(self) -> None:
        """Lose a slot or a place in the queue, as an exception in a caller's thread may. The router must find it."""
        router, queue = self._router, self._router._queue  # noqa: SLF001 - what is lost shows nowhere else
        tokens = [each for each in (queue.room, *(lane.free for lane in router.lanes)) if each]
        if tokens:
            self._tell("lose a slot, or a place in the queue")
            self._random.choice(tokens).pop()
        router.suspect()
        calm, self._calm = self._calm, True  # callbacks make no calls: the loss may have one refused
        self._clock.run_until(self._clock.monotonic() + HEALED_AFTER_S)
        self._calm = calm

    def _step_suspect(self) -> None:
        """Suspect a loss although nothing is lost, either after an exception or because a caller misses its call."""
        call = self._some_call()
        if call is None:
            self._router.suspect()
        else:
            self._router.suspect_loss_of(call)

    def _step_watch(self) -> None:
        call = self._some_call()
        if call is not None and not self.setting.in_callers_thread:
            self._tell(f"watch {call.number}")
            self._watch(call)

    def _step_futures_wait(self) -> None:
        call = self._some_call()
        if call is not None and not self.setting.in_callers_thread:
            self._tell(f"futures.wait {call.number}")
            wait([call], timeout=0)
            call.registered += 1  # counts as watched, without a callback
            call.called_back += 1

    def _step_look(self) -> None:
        call = self._some_call()
        if call is not None and not self.setting.in_callers_thread:
            over = call.done()
            self._tell(f"look at {call.number}: {'over' if over else 'not over'}")

    def _step_cancel(self) -> None:
        call = self._some_call()
        if call is not None and not self.setting.in_callers_thread:
            call.given_up = True
            unstarted = call.starts == 0 and call.unstarted() and not call.attempts
            cancelled = call.cancel()
            self._tell(f"cancel {call.number}: {cancelled}")
            if cancelled is not unstarted:
                raise BrokenRuleError(f"cancel() of call {call.number}, {'not ' * unstarted}started, gave {cancelled}")

    def _step_abandon(self) -> None:
        call = self._some_call()
        if call is None or (self.setting.in_callers_thread and call not in self._at_callers):
            return  # its caller's thread is busy running it
        self._tell(f"abandon {call.number}")
        call.given_up = True
        call.abandon()
        if not call.over():
            raise BrokenRuleError(f"call {call.number} was abandoned and is not over")
        if call.granted:
            self._take_turn(call)

    def _step_kill(self) -> None:
        place = self._some_place()
        if place is not None and not self.setting.in_callers_thread:  # it dies with its callers
            after = self._random.choice((0, 0, 1, 4)) * TICK
            self._tell(f"kill {place.lane.id}, reported after {after:g} s")
            place.replica.die(report_after=after)
            self._move(0)

    def _step_close(self) -> None:
        place = self._some_place()
        if place is not None and not place.closed:
            self._tell(f"close {place.lane.id}")
            place.closed = True
            for call in (*self._granted(place), *place.unstarted()):
                self._mine(call).overtaken = True
            self._router.close_lane(place.lane)

    def _step_replace(self) -> None:
        """Bring the number of replicas that take calls back to the setting."""
        used = {place.lane.index for place in self._places if not place.closed}
        for index, slots in enumerate(self.setting.slots):
            if index not in used and self._places:
                self._open(index, slots)
                return

    def _step_release(self) -> None:
        place = self._some_place()
        if place is not None:
            self._tell(f"release what hangs on {place.lane.id}")
            place.replica.release_hung()

    def _step_unavailable(self) -> None:
        if not self._router.lanes and self._places:
            self._tell("unavailable")
            self._unavailable = True
            self._router.unavailable(lambda: NoReplicaError("no replica left", service="sim"))
            if self._router.waiting or self._router.parked:
                raise BrokenRuleError(f"calls wait for replicas that will not come: {self._numbers()}")

    def _step_close_to_outsiders(self) -> None:
        if not self._outsiders_out and not self._draining:
            self._tell("close to outsiders")
            self._outsiders_out = True
            self._router.close_to_outsiders("is about to stop", self._may_be_idle)

    def _step_drain(self) -> None:
        if not self._draining:
            self._tell("drain")
            self._draining = True
            self._router.drain("is stopping", self._on_idle)

    def _finish(self) -> None:
        """Let everything end, then check that nothing is left."""
        self._calm = True
        if self._random.random() < 0.25:  # noqa: PLR2004 - odds
            self._tell("end without draining")
        else:
            self._step_drain()
            self._check()
            if not self._router.lanes and self._random.random() < 0.5:  # noqa: PLR2004 - odds
                self._step_unavailable()
            self._settle_down()
            self._tell("everything that can be done is done")
            if self._router.lanes and self._live:
                raise BrokenRuleError(f"draining left {self._name(self._live)} though there are replicas")
        self._step_drain()
        self._stopping = True
        self._tell("end")
        self._router.end()
        self._check()
        self._settle_down()
        self._check_nothing_left()

    def _settle_down(self) -> None:
        """Advance until nothing more happens by itself."""
        while True:
            while self._clock.next_at() < inf:
                self._clock.run_until(self._clock.next_at())
                self._check()
            for place in self._places:
                if place.replica.alive:
                    place.replica.release_hung()
            self._check()
            if self._clock.next_at() == inf:
                return

    # -- callers -----------------------------------------------------------------------------------------------------

    def _make(self) -> SimulatedCall:
        random = self._random
        now = self._clock.monotonic()
        deadline = expires = now + random.choice((inf, inf, inf, 0, 1, 2, 4, 8, 16, 30, 60)) * TICK
        if random.random() < 0.2:  # noqa: PLR2004 - odds, as below
            expires = min(expires, now + random.choice((1, 2, 5)) * TICK)
        options = CallOptions(
            key=random.choice((None, 0, 1, 2, 3)), idempotent=random.choice((None, None, None, True, False))
        )
        method = random.choice(self.setting.methods)
        # A service's method makes some of the calls. It does not matter on behalf of which call.
        inside = random.choice(self._all) if self._all and random.random() < 0.3 else None  # noqa: PLR2004 - odds
        token = CURRENT.set(inside)
        context = copy_context()
        CURRENT.reset(token)
        call = SimulatedCall(self._router, method, (self._calls,), {}, options, now, deadline, expires, context)
        call.inside = inside
        call.number = self._calls
        call.course = self
        self._calls += 1
        return call

    def _route(self, call: SimulatedCall) -> None:
        self._live[call] = None
        token = CURRENT.set(call.inside)
        try:
            admitted = self._router.route(call)
        except (OverloadedError, ServiceStoppedError, NoReplicaError) as error:
            del self._live[call]
            self._tell(f"route {call.number}: {type(error).__name__}")
            # Not since it was routed: a done-callback that ran meanwhile may have routed another one.
            told = self._refusals.total() - self._refusals_checked
            self._refusals_checked += told
            self._check_refusal(call, error, told=told, stopped=self._closed_to(call))
            return
        finally:
            CURRENT.reset(token)
        self._all.append(call)
        self._give_order(call)
        self._tell(f"route {call.number}: {'sent or queued' if admitted else 'parked'}")
        if self._closed_to(call) or self._unavailable:
            raise BrokenRuleError(f"call {call.number} was accepted by a service that takes no more")
        if admitted is call.parked:
            raise BrokenRuleError(f"route of call {call.number} gave {admitted}, and parked is {call.parked}")
        if not admitted and self.setting.reject and not call.returned:
            raise BrokenRuleError(f"call {call.number} was parked by a service that rejects")
        self._check_opening(call)
        call.admitted = admitted
        if self.setting.in_callers_thread:
            if not call.over() and call.unstarted():
                self._hold(call)
        elif self._random.random() < 0.6:  # noqa: PLR2004 - odds
            self._watch(call)

    def _watch(self, call: SimulatedCall) -> None:
        call.registered += 1
        call.add_done_callback(self._called_back)

    def _called_back(self, call: SimulatedCall) -> None:
        call.called_back += 1
        if not call.over():
            self._broken = BrokenRuleError(f"call {call.number} is not over and its callback runs")
        # Most callbacks call again. The odds end the recursion.
        if not self._calm and self._random.random() < 0.1:  # noqa: PLR2004 - odds
            try:
                self._route(self._make())
            except BrokenRuleError as error:
                self._broken = error

    def _hold(self, call: SimulatedCall) -> None:
        """Under in_callers_thread, the caller waits for its turn and wakes up at its deadline by itself."""
        if call not in self._at_callers:
            self._at_callers.append(call)
        if call.expires < inf:
            self._clock.call_at(max(call.expires, self._clock.monotonic()), lambda: self._wake(call))

    def _wake(self, call: SimulatedCall) -> None:
        """Wake the thread that holds *call*: it has a slot, its time is over, or both."""
        call.waking = False
        if call not in self._at_callers:
            return
        if self._random.random() < 0.5:  # noqa: PLR2004 - odds; its timeout may be noticed first
            call.expire()
        if call.granted:
            self._take_turn(call)
        else:
            call.expire()

    def _take_turn(self, call: SimulatedCall) -> None:
        """Do what `Call.hold` does in the caller's thread."""
        self._at_callers.remove(call)
        if call.take_grant() and call.lane.run_here is not None:
            call.lane.run_here(call.batch or call)

    def _wake_callers(self) -> None:
        """Schedule the wake-up of each thread whose call was given a slot."""
        if not self._at_callers:
            return
        self._at_callers = [call for call in self._at_callers if call.granted or not call.over()]
        for call in self._at_callers:
            if call.granted and not call.waking:
                call.waking = True
                self._clock.call_at(self._later(self._random.choice((0, 0, 1, 4))), lambda call=call: self._wake(call))  # type: ignore[misc]

    def _some_call(self) -> SimulatedCall | None:
        return self._random.choice(tuple(self._live)) if self._live else None

    def _some_place(self) -> Place | None:
        alive = [place for place in self._places if place.replica.alive]
        return self._random.choice(alive) if alive else None

    # -- replicas ----------------------------------------------------------------------------------------------------

    def _open(self, index: int, slots: int) -> None:
        if self._stopping:
            return
        random = self._random
        place = self._new_place(index)
        place.replica = self._replica(
            place,
            self._clock,
            slots,
            id=f"sim#{index}",
            index=index,
            script=self._script,
            pick_up=lambda: random.choice((0, 0, 0, 1, 3)) * TICK,
            record=self._count,
            started=self._started,
            executed=self._executed,
            in_callers_thread=self.setting.in_callers_thread,
        )
        self._tell(f"open {place.lane.id} with {slots} slots")
        self._places.append(place)
        self._unavailable = False
        self._router.open(place.lane, place.replica)

    def _new_place(self, index: int) -> Place:
        return Place(self, self._router.lane(f"sim#{index}", index))

    def _script(self, call: Call) -> Act:
        random = self._random
        draw = random.random()
        if self._calm:
            behaviour = Behaviour.RAISE if draw < 0.1 else Behaviour.ANSWER  # noqa: PLR2004 - odds, as below
        elif draw < self.setting.dies:
            behaviour = random.choice((Behaviour.DIE_BEFORE, Behaviour.DIE_DURING, Behaviour.DIE_AFTER))
        elif draw < 0.7:  # noqa: PLR2004
            behaviour = Behaviour.ANSWER
        else:
            behaviour = random.choice((Behaviour.RAISE, Behaviour.HANG, Behaviour.LATE))
        self._behaviours[behaviour] += 1
        act = Act(behaviour, random.choice((0, 1, 1, 2, 4, 10)) * TICK)
        self._tell(f"turn of {getattr(call, 'number', '?')}: {act.behaviour} {act.seconds:g} s")
        return act
