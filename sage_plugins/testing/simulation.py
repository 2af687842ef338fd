"""
A router and its replicas in virtual time, driven from one seed.

`Simulation(seed).run()` builds a router with settings drawn from the seed, gives it replicas that answer, raise, hang,
answer after the deadline or die at the worst moments, and plays callers who send, watch, cancel and abandon calls while
replicas come and go. After every step it holds the router to the rules below; whatever breaks one is a
`SimulationFailure`, whose message has the seed, the settings and the last steps. The same seed gives the same course of
events, in every process.

The rules:

* An accepted call has exactly one outcome, and is counted once, before its callers learn of it. A refused one has none.
* A call is started once; an idempotent one twice if its replica died and the service retries. Nothing starts once its
  time to start is over.
* No more calls wait than `queue_size`, none is refused or held back while there is room, and none waits while a slot is
  free.
* No replica gets more calls than it has slots. With one slot, calls start in the order in which they came.
* A call that somebody watches ends at its deadline at the latest; every done-callback runs once.
* Draining finishes what was accepted, and says that the service is idle exactly when it is.
* At the end nothing is left: no waiting call, no taken room, no taken slot, no timer.

It simulates no threads: what happens between two steps of a router method is not tried.
"""

from __future__ import annotations

from collections import Counter, deque
from concurrent.futures import wait
from contextvars import copy_context
from itertools import count
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_plugins.call import CURRENT, Call
from sage_plugins.errors import (
    CallCancelledError,
    CallTimeoutError,
    NoReplicaError,
    OverloadedError,
    ReplicaDiedError,
    ServiceStoppedError,
)
from sage_plugins.router import Router
from sage_plugins.testing.fake_replica import Act, Behaviour, FakeReplica, ScriptedError
from sage_plugins.testing.virtual_clock import VirtualClock
from sage_plugins.values import CallOptions, MethodKind, MethodPlan, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from sage_plugins.interfaces import Balancer, Candidate, Picker
    from sage_plugins.lane import Lane

__all__ = ["Report", "Setting", "Simulation", "SimulationFailure"]

#: Seconds. All times of a simulation are multiples of it and exact in binary, so that much happens at the same moment.
_TICK: Final = 1 / 16

#: Steps that a failure tells.
_TRAIL: Final = 25


class SimulationFailure(AssertionError):  # noqa: N818 - pytest and its readers know it as a failed assertion
    """A rule was broken; the message has the seed, the settings and the last steps."""


class _BrokenRuleError(AssertionError):
    """A rule was broken; becomes a `SimulationFailure` with the course of events."""


# -- balancers, good and bad -------------------------------------------------------------------------------------------


class _Turns:
    """Each in turn."""

    binding = False

    def picker(self, candidates: tuple[Candidate, ...]) -> Picker:
        turn = 0

        def pick(_: Hashable | None) -> Candidate:
            nonlocal turn
            turn += 1
            return candidates[turn % len(candidates)]

        return pick


class _Least:
    """The one with the fewest calls."""

    binding = False

    def picker(self, candidates: tuple[Candidate, ...]) -> Picker:
        return lambda _: min(candidates, key=lambda each: each.inflight)


class _ByKey:
    """Always the same one for a key, and its calls wait for it."""

    binding = True

    def picker(self, candidates: tuple[Candidate, ...]) -> Picker:
        # Not hash(None): that differs from process to process.
        return lambda key: candidates[0 if key is None else hash(key) % len(candidates)]


class _Raises:
    """Works some time, then raises."""

    def __init__(self, picks: int, *, binding: bool) -> None:
        self.binding = binding
        self._picks = picks
        self.mistakes = 0

    def picker(self, candidates: tuple[Candidate, ...]) -> Picker:
        def pick(_: Hashable | None) -> Candidate:
            self._picks -= 1
            if self._picks < 0:
                self.mistakes += 1
                raise ZeroDivisionError("a balancer's mistake")
            return candidates[0]

        if self._picks < 0:
            self.mistakes += 1
            raise ZeroDivisionError("a balancer's mistake, while it composes")
        return pick


class _Stale:
    """Never learns that replicas come and go."""

    binding = False

    def __init__(self) -> None:
        self._first: tuple[Candidate, ...] = ()

    def picker(self, candidates: tuple[Candidate, ...]) -> Picker:
        self._first = self._first or candidates
        return lambda _: self._first[0]


_BALANCERS: Final[Mapping[str, Callable[[Random], Any]]] = {
    "none": lambda _: None,
    "turns": lambda _: _Turns(),
    "least": lambda _: _Least(),
    "by key": lambda _: _ByKey(),
    "raises": lambda random: _Raises(random.randrange(10), binding=random.random() < 0.3),  # noqa: PLR2004 - odds
    "stale": lambda _: _Stale(),
}
_HEALTHY: Final = ("none", "turns", "least", "by key")


# -- the simulation ----------------------------------------------------------------------------------------------------


@attrs.frozen
class Setting:
    """
    What one simulation is about; drawn from its seed.

    Attributes:
        queue_size: Calls that may wait.
        reject: Whether a full queue refuses, rather than holds, a call.
        retry_lost: Whether idempotent calls are started again when their replica died.
        balancer: Name of the balancer.
        slots: Of each replica.
        in_callers_thread: Whether calls run in their callers' threads, as under `inline`.
        steps: What callers and replicas do, before the end.
        dies: Probability that a call takes its replica with it.
    """

    queue_size: int
    reject: bool
    retry_lost: bool
    balancer: str
    slots: tuple[int, ...]
    in_callers_thread: bool
    steps: int
    dies: float

    @classmethod
    def draw(cls, random: Random) -> Setting:
        """Settings that are small, so that bounds are met all the time."""
        here = random.random() < 0.15  # noqa: PLR2004 - odds, as below
        replicas = random.choice((1, 1, 2, 2, 3, 4))
        return cls(
            queue_size=random.choice((0, 1, 1, 2, 3, 5, 8, 20)),
            reject=random.random() < 0.5,  # noqa: PLR2004
            retry_lost=random.random() < 0.5,  # noqa: PLR2004
            balancer=random.choice(tuple(_BALANCERS)),
            slots=tuple(1 if here else random.choice((1, 1, 2, 3)) for _ in range(replicas)),
            in_callers_thread=here,
            steps=random.randrange(20, 80),
            dies=0.0 if here else random.choice((0.0, 0.03, 0.1)),
        )


@attrs.frozen
class Report:
    """
    What happened in a simulation; for tests that want to know that something did.

    Attributes:
        calls: Calls made.
        refused: Calls not accepted.
        outcomes: Ended calls by `Outcome`.
        started: Methods that were started.
        behaviours: What the replicas were told to do, how often.
        steps: Steps by name.
    """

    calls: int
    refused: int
    outcomes: Counter[int]
    started: int
    behaviours: Counter[str]
    steps: Counter[str]


class _SimulatedCall(Call):
    """A call as a handle makes it, that the simulation follows."""

    number: int
    simulation: Simulation
    inside: Call | None  # on behalf of which call it is made
    order = -1  # in which it was accepted
    ends = 0  # outcomes published
    starts = 0
    executions = 0
    registered = 0  # done-callbacks
    called_back = 0
    admitted = False  # accepted for good: sent, or given room in the queue
    came_back = False  # given back by a replica that died
    overtaken = False  # later calls may have started before it
    given_up = False  # by its caller
    waking = False  # its caller's thread is about to notice that it has a slot

    def publish(self, result: Any, error: BaseException | None = None) -> None:
        self.simulation.ending(self, error)
        super().publish(result, error)
        self.simulation.ended(self)

    @property
    def granted(self) -> bool:
        """Whether it has a slot that its caller's thread has not noticed."""
        return "granted" in self.__dict__


class _Place:
    """One replica's place in the simulation."""

    def __init__(self, simulation: Simulation, lane: Lane) -> None:
        self.lane = lane
        self.follow = lane.follow
        self.replica: FakeReplica
        self.closed = False
        self.lost_already = False
        self._held: frozenset[Call] = frozenset()
        self._served = True
        self._simulation = simulation

    def check_standby(self, granted: Sequence[Call], *, serves: bool) -> None:
        """It gets no calls while it stands by."""
        held = frozenset((*granted, *self.replica.inbox, *self.replica.running))
        if not serves and not self._served and not held <= self._held:
            raise _BrokenRuleError(f"{self.lane!r} stands by and was sent a call")
        self._held, self._served = held, serves

    def lost(self, not_started: Sequence[Any], maybe: Sequence[Any], cause: BaseException) -> None:
        self._simulation.lost(self, not_started, maybe, cause)


class Simulation:
    """
    One course of events; see the module's docstring.

    Attributes:
        seed: Where it comes from.
        setting: What was drawn for it.
    """

    def __init__(
        self,
        seed: int,
        *,
        router: type[Router] = Router,
        replica: type[FakeReplica] = FakeReplica,
        setting: Setting | None = None,
    ) -> None:
        """
        Set up; nothing happens before `run`.

        Args:
            seed: Decides everything.
            router: What is tested.
            replica: What it is tested with.
            setting: In place of what the seed would draw.
        """
        self.seed = seed
        self._random = random = Random(seed)  # noqa: S311 - no secret
        drawn = Setting.draw(random)
        self.setting = setting = drawn if setting is None else setting
        self._clock = VirtualClock()
        self._replica = replica
        self._counted: Counter[int] = Counter()
        self._refusals: Counter[str] = Counter()
        self._fenced = 0
        balancer: Balancer | None = _BALANCERS[setting.balancer](random)
        self._router = router(
            "sim",
            self._clock,
            queue_size=setting.queue_size,
            reject=setting.reject,
            retry_lost=setting.retry_lost,
            count=self._count,
            refused=lambda _, reason: self._refusals.update((reason,)),
            balancer=balancer,
            on_balancer_error=self._balancer_failed,
        )
        self._balancer = balancer
        self._binding = balancer is not None and balancer.binding
        self._single = setting.slots == (1,)
        self._methods = (
            MethodPlan(0, "once", MethodKind.SYNC, idempotent=False, timeout=inf),
            MethodPlan(1, "twice", MethodKind.SYNC, idempotent=True, timeout=inf),
        )
        self._places: list[_Place] = []
        self._calls = 0
        self._order = count()
        self._live: dict[_SimulatedCall, None] = {}  # accepted calls without an outcome, in the order of their routing
        self._all: list[_SimulatedCall] = []  # accepted calls
        self._at_callers: list[_SimulatedCall] = []  # under in_callers_thread: those whose callers wait for their turn
        self._outcomes: Counter[int] = Counter()
        self._behaviours: Counter[str] = Counter()
        self._steps: Counter[str] = Counter()
        self._starts = 0
        self._last_start = -1
        self._outsiders_out = False
        self._told = 0  # times that the router said that it may be idle, since outsiders are out
        self._busy = False
        self._told_then = 0  # the same when the service was last seen at work
        self._draining = False
        self._unavailable = False
        self._stopping = False  # `end` was called: waiting calls may be refused
        self._calm = False  # the end has come: nothing hangs or dies any more
        self._idle = 0  # times that the router said so
        self._trail: deque[str] = deque(maxlen=_TRAIL)

    # -- the course of events ----------------------------------------------------------------------------------------

    def run(self) -> Report:
        """
        Play it.

        Raises:
            SimulationFailure: A rule was broken, or the router raised what it must not.
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
            behaviours=self._behaviours,
            steps=self._steps,
        )

    def _story(self, error: Exception) -> str:
        what = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        trail = "\n  ".join(self._trail)
        return f"seed {self.seed}: {what}\n  {self.setting}\nlast steps:\n  {trail}"

    def _tell(self, what: str) -> None:
        self._trail.append(f"{self._clock.monotonic() - 1000:8.4f} s  {what}")

    def _play(self) -> None:
        random, setting = self._random, self.setting
        for index, slots in enumerate(setting.slots):
            self._clock.call_at(self._later(random.choice((0, 0, 4))), lambda i=index, s=slots: self._open(i, s))  # type: ignore[misc]
        steps, weights = zip(*_STEPS, strict=True)
        for _ in range(setting.steps):
            step = random.choices(steps, weights)[0]
            self._steps[step] += 1
            getattr(self, f"_step_{step}")()
            self._check()
        self._finish()

    def _later(self, ticks: int) -> float:
        return self._clock.monotonic() + ticks * _TICK

    def _move(self, seconds: float) -> None:
        """Advance one timer at a time, with a look at the rules after each."""
        clock = self._clock
        until = clock.monotonic() + seconds
        while clock.next_at() <= until:
            clock.run_until(clock.next_at())
            self._check()
        clock.run_until(until)
        self._check_deadlines()

    # -- steps -------------------------------------------------------------------------------------------------------

    def _step_call(self) -> None:
        for _ in range(self._random.choice((1, 1, 1, 2, 3, 6))):
            self._route(self._make())

    def _step_advance(self) -> None:
        ticks = self._random.choice((0, 1, 1, 2, 3, 5, 8, 20))
        self._tell(f"advance {ticks * _TICK:g} s")
        self._move(ticks * _TICK)

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
            call.registered += 1  # as good as watched, and no callback
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
            unstarted = call.starts == 0 and call.unstarted()
            cancelled = call.cancel()
            self._tell(f"cancel {call.number}: {cancelled}")
            if cancelled is not unstarted:
                raise _BrokenRuleError(f"cancel() of call {call.number}, {'not ' * unstarted}started, gave {cancelled}")

    def _step_abandon(self) -> None:
        call = self._some_call()
        if call is None or (self.setting.in_callers_thread and call not in self._at_callers):
            return  # its caller's thread is busy running it
        self._tell(f"abandon {call.number}")
        call.given_up = True
        call.abandon()
        if not call.over():
            raise _BrokenRuleError(f"call {call.number} was abandoned and is not over")
        if call.granted:
            self._take_turn(call)

    def _step_kill(self) -> None:
        place = self._some_place()
        if place is not None and not self.setting.in_callers_thread:  # it dies with its callers
            after = self._random.choice((0, 0, 1, 4)) * _TICK
            self._tell(f"kill {place.lane.id}, reported after {after:g} s")
            place.replica.die(report_after=after)
            self._move(0)

    def _step_close(self) -> None:
        place = self._some_place()
        if place is not None and not place.closed:
            self._tell(f"close {place.lane.id}")
            place.closed = True
            for call in (*self._at_callers, *place.replica.inbox):
                if call.lane is place.lane:
                    self._mine(call).overtaken = True
            self._router.close_lane(place.lane)

    def _step_replace(self) -> None:
        """Bring the number of replicas that take calls back to what was set."""
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
                raise _BrokenRuleError(f"calls wait for replicas that will not come: {self._numbers()}")

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
        """Let everything come to its end, then look for what is left."""
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
                raise _BrokenRuleError(f"draining left {self._name(self._live)} though there are replicas")
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

    def _make(self) -> _SimulatedCall:
        random = self._random
        now = self._clock.monotonic()
        deadline = expires = now + random.choice((inf, inf, inf, 0, 1, 2, 4, 8, 16, 30, 60)) * _TICK
        if random.random() < 0.2:  # noqa: PLR2004 - odds, as below
            expires = min(expires, now + random.choice((1, 2, 5)) * _TICK)
        options = CallOptions(
            key=random.choice((None, 0, 1, 2, 3)), idempotent=random.choice((None, None, None, True, False))
        )
        method = random.choice(self._methods)
        # Some are made by a method of a service; on behalf of which call does not matter.
        inside = random.choice(self._all) if self._all and random.random() < 0.3 else None  # noqa: PLR2004 - odds
        token = CURRENT.set(inside)
        context = copy_context()
        CURRENT.reset(token)
        call = _SimulatedCall(self._router, method, (self._calls,), {}, options, now, deadline, expires, context)
        call.inside = inside
        call.number = self._calls
        call.simulation = self
        self._calls += 1
        return call

    def _closed_to(self, call: _SimulatedCall) -> bool:
        return self._draining or (self._outsiders_out and call.inside is None)

    def _route(self, call: _SimulatedCall) -> None:
        refused = self._refusals.total()
        self._live[call] = None
        token = CURRENT.set(call.inside)
        try:
            admitted = self._router.route(call)
        except (OverloadedError, ServiceStoppedError, NoReplicaError) as error:
            del self._live[call]
            self._tell(f"route {call.number}: {type(error).__name__}")
            told = self._refusals.total() - refused
            self._check_refusal(call, error, told=told, stopped=self._closed_to(call))
            return
        finally:
            CURRENT.reset(token)
        self._all.append(call)
        self._give_order(call)
        self._tell(f"route {call.number}: {'sent or queued' if admitted else 'parked'}")
        if self._closed_to(call) or self._unavailable:
            raise _BrokenRuleError(f"call {call.number} was accepted by a service that takes no more")
        if admitted is call.parked:
            raise _BrokenRuleError(f"route of call {call.number} gave {admitted}, and parked is {call.parked}")
        if not admitted and self.setting.reject:
            raise _BrokenRuleError(f"call {call.number} was parked by a service that rejects")
        call.admitted = admitted
        if self.setting.in_callers_thread:
            if not call.over() and call.unstarted():
                self._hold(call)
        elif self._random.random() < 0.6:  # noqa: PLR2004 - odds
            self._watch(call)

    def _give_order(self, call: _SimulatedCall) -> None:
        # Not when it is made: a done-callback that runs while it is routed may route another one before it.
        if call.order < 0:
            call.order = next(self._order)

    def _check_refusal(self, call: _SimulatedCall, error: Exception, *, told: int, stopped: bool) -> None:
        if told != 1:
            raise _BrokenRuleError(f"call {call.number} was refused and the monitors heard of {told} refusals")
        if not call.unstarted() or call.ends:
            raise _BrokenRuleError(f"call {call.number} was refused and {call!r}")
        if isinstance(error, ServiceStoppedError):
            right = stopped
        elif isinstance(error, NoReplicaError):
            right = self._unavailable
        else:
            right = self.setting.reject and self._router.waiting == self.setting.queue_size
            for lane in () if self._binding else [place.lane for place in self._serving()]:
                if lane.free:
                    raise _BrokenRuleError(f"call {call.number} was refused though {lane!r} has a free slot")
        if not right:
            raise _BrokenRuleError(f"call {call.number} was refused without cause: {error!r}, {self._numbers()}")

    def _watch(self, call: _SimulatedCall) -> None:
        call.registered += 1
        call.add_done_callback(self._called_back)

    def _called_back(self, call: _SimulatedCall) -> None:
        call.called_back += 1
        if not call.over():
            raise _BrokenRuleError(f"call {call.number} is not over and its callback runs")
        # What callbacks do most: call again. Not recursively without end, hence the odds.
        if not self._calm and self._random.random() < 0.1:  # noqa: PLR2004 - odds
            self._route(self._make())

    def _hold(self, call: _SimulatedCall) -> None:
        """Under in_callers_thread: its caller waits for its turn, and wakes up at its deadline by itself."""
        if call not in self._at_callers:
            self._at_callers.append(call)
        if call.expires < inf:
            self._clock.call_at(max(call.expires, self._clock.monotonic()), lambda: self._wake(call))

    def _wake(self, call: _SimulatedCall) -> None:
        """The thread that holds *call* wakes up: it has a slot, or its time is over, or both at once."""
        call.waking = False
        if call not in self._at_callers:
            return
        if self._random.random() < 0.5:  # noqa: PLR2004 - odds; its time-out may be noticed first
            call.expire()
        if call.granted:
            self._take_turn(call)
        else:
            call.expire()

    def _take_turn(self, call: _SimulatedCall) -> None:
        """What `Call.hold` does in the caller's thread."""
        self._at_callers.remove(call)
        if call._take_grant() and call.lane.run_here is not None:  # noqa: SLF001
            call.lane.run_here(call)

    def _some_call(self) -> _SimulatedCall | None:
        return self._random.choice(tuple(self._live)) if self._live else None

    def _some_place(self) -> _Place | None:
        alive = [place for place in self._places if place.replica.alive]
        return self._random.choice(alive) if alive else None

    # -- replicas ----------------------------------------------------------------------------------------------------

    def _open(self, index: int, slots: int) -> None:
        if self._stopping:
            return
        random = self._random
        place = _Place(self, self._router.lane(f"sim#{index}", index))
        place.replica = self._replica(
            place,
            self._clock,
            slots,
            id=f"sim#{index}",
            index=index,
            script=self._script,
            pick_up=lambda: random.choice((0, 0, 0, 1, 3)) * _TICK,
            record=self._count,
            started=self._started,
            executed=self._executed,
            in_callers_thread=self.setting.in_callers_thread,
        )
        self._tell(f"open {place.lane.id} with {slots} slots")
        self._places.append(place)
        self._unavailable = False
        self._router.open(place.lane, place.replica)

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
        act = Act(behaviour, random.choice((0, 1, 1, 2, 4, 10)) * _TICK)
        self._tell(f"turn of {getattr(call, 'number', '?')}: {act.behaviour} {act.seconds:g} s")
        return act

    def _started(self, started: Call) -> None:
        call = self._mine(started)
        call.starts += 1
        self._starts += 1
        if self._clock.monotonic() >= call.expires:
            raise _BrokenRuleError(f"call {call.number} started when its time to start was over")
        allowed = 1 + (call.attempts > 0)
        if call.starts > allowed:
            raise _BrokenRuleError(f"call {call.number} was started {call.starts} times")
        if call.over() or call.settled():
            raise _BrokenRuleError(f"call {call.number} started and is over")
        if self._single and not call.overtaken:
            self._give_order(call)
            if call.order < self._last_start:
                raise _BrokenRuleError(f"call {call.number} started after a call that came later")
            self._last_start = call.order

    def _executed(self, executed: Call) -> None:
        call = self._mine(executed)
        call.executions += 1
        idempotent = call.method.idempotent if call.options.idempotent is None else call.options.idempotent
        if call.executions > 1 and not (idempotent and self.setting.retry_lost):
            raise _BrokenRuleError(f"call {call.number} is not to run twice and did")

    def lost(self, place: _Place, not_started: Sequence[Any], maybe: Sequence[Any], cause: BaseException) -> None:
        """The replica of *place* died, and the router learns it now."""
        self._tell(f"{place.lane.id} is lost with {self._name(not_started)} not started and maybe {self._name(maybe)}")
        for call in (*not_started, *maybe):
            call.came_back = True
            call.overtaken = place.closed  # others have taken over from that replica before
        place.closed = place.lost_already = True
        self._router.lost(place.lane, not_started, maybe, cause)
        if place.lane.abandoned or place.lane.inflight:
            raise _BrokenRuleError(f"{place.lane!r} is dead and has {place.lane.abandoned} abandoned calls")
        for call in (*not_started, *maybe):
            if not call.over() and call.lane is place.lane:
                raise _BrokenRuleError(f"call {call.number} still belongs to {place.lane.id}, which is dead")
        for call in maybe:
            idempotent = call.method.idempotent if call.options.idempotent is None else call.options.idempotent
            if not call.over() and not (idempotent and self.setting.retry_lost and call.starts == 1):
                raise _BrokenRuleError(f"call {call.number} was lost while it ran and is not over")

    @staticmethod
    def _mine(call: Call) -> _SimulatedCall:
        if not isinstance(call, _SimulatedCall):
            raise _BrokenRuleError(f"{call!r} came from nowhere")
        return call

    # -- what the router reports -------------------------------------------------------------------------------------

    def _count(self, method: int, outcome: int, wait_s: float, run_s: float) -> None:
        if method not in (0, 1) or wait_s < 0 or run_s < 0:
            raise _BrokenRuleError(f"counted nonsense: {method}, {outcome}, {wait_s}, {run_s}")
        self._counted[outcome] += 1

    def _balancer_failed(self, error: BaseException) -> None:
        self._tell(f"balancer fenced: {error!r}")
        self._fenced += 1
        if self.setting.balancer in _HEALTHY:
            raise _BrokenRuleError(f"a healthy balancer was fenced: {error!r}")

    def _may_be_idle(self) -> None:
        self._told += 1

    def _on_idle(self) -> None:
        self._idle += 1
        if not self._is_idle():
            raise _BrokenRuleError(f"said to be idle: {self._numbers()}")

    def _is_idle(self) -> bool:
        """Whether nothing waits, no slot is taken by a call that has not started, and all that runs was given up."""
        if self._router.waiting or self._router.parked or any(call.granted for call in self._at_callers):
            return False
        return not any(
            place.replica.inbox or not all(call.settled() for call in place.replica.running)
            for place in self._places
            if not place.lost_already
        )

    def ending(self, call: _SimulatedCall, error: BaseException | None) -> None:
        """The outcome of *call* is about to be published."""
        call.ends += 1
        if call.ends > 1:
            raise _BrokenRuleError(f"call {call.number} has a second outcome: {error!r}")
        if not call.settled():
            raise _BrokenRuleError(f"call {call.number} is published by somebody who did not take its outcome")
        outcome = _outcome_of(error)
        self._outcomes[outcome] += 1
        if self._outcomes != self._counted:
            raise _BrokenRuleError(
                f"call {call.number} ends as {Outcome.NAMES[outcome]} and was not counted so once: ended "
                f"{dict(self._outcomes)}, counted {dict(self._counted)}"
            )
        if not self._is_plausible(call, outcome, error):
            raise _BrokenRuleError(
                f"call {call.number}, started {call.starts} times, admitted: {call.admitted}, has no cause to end as "
                f"{Outcome.NAMES[outcome]}: {error!r}"
            )
        self._tell(f"call {call.number} ends as {Outcome.NAMES[outcome]}")
        self._live.pop(call, None)

    def _is_plausible(self, call: _SimulatedCall, outcome: int, error: BaseException | None) -> bool:
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
            return call.starts > 0 and call.came_back
        accepted = call.admitted or call.came_back
        return self._stopping or self._unavailable or (self._closed_to(call) and not accepted)

    def ended(self, call: _SimulatedCall) -> None:
        """The outcome of *call* was published."""
        if not call.over():
            raise _BrokenRuleError(f"call {call.number} was published and is not over")

    # -- rules -------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """What must hold whenever nobody is in the middle of something."""
        router, setting = self._router, self.setting
        waiting, parked = router.waiting, router.parked
        if waiting > setting.queue_size:
            raise _BrokenRuleError(f"{waiting} calls wait and queue_size is {setting.queue_size}")
        if parked and waiting < setting.queue_size:
            raise _BrokenRuleError(f"{parked} calls are parked and there is room: {self._numbers()}")
        if parked and setting.reject and not any(call.came_back for call in self._live):
            raise _BrokenRuleError(f"{parked} calls are parked by a service that rejects")
        self._check_parked(parked)
        self._wake_callers()
        held = waiting + parked + self._check_lanes(waiting + parked)
        if held != len(self._live):
            raise _BrokenRuleError(f"no outcome: {self._name(self._live)}, of which {held} are held; {self._numbers()}")
        self._check_idle()
        self._check_deadlines()

    def _check_parked(self, parked: int) -> None:
        """Who is parked, and that none is admitted before another that came first."""
        held_back = 0
        for call in self._live:
            if not call.parked:
                call.admitted = True
                continue
            held_back += 1
            if not call.came_back and self._closed_to(call):
                raise _BrokenRuleError(f"call {call.number} is parked by a service that takes no more")
        if held_back != parked:
            raise _BrokenRuleError(f"{held_back} calls hold that they are parked, and the router {parked}")
        if parked:
            waiting = [call for call in self._live if call.lane is None and not call.came_back]
            waiting.sort(key=lambda call: call.order)
            if [call.parked for call in waiting] != sorted(call.parked for call in waiting):
                raise _BrokenRuleError(f"calls were admitted before others that came first: {self._numbers()}")

    def _check_idle(self) -> None:
        router, idle = self._router, self._is_idle()
        if self._draining and idle and not self._idle:
            raise _BrokenRuleError("the service is idle and the router did not say so")
        if router.idle is not idle:
            raise _BrokenRuleError(f"the router says that it is {'' if router.idle else 'not '}idle: {self._numbers()}")
        if not idle:
            self._told_then = self._told
        elif self._outsiders_out and not self._draining and self._busy and self._told == self._told_then:
            raise _BrokenRuleError("the service has become idle and nobody was told to look")
        self._busy = not idle

    def _serving(self) -> list[_Place]:
        """The replicas that take calls: without balancing the first, for which the others stand by."""
        serving = sorted((place for place in self._places if not place.closed), key=lambda each: each.lane.index)
        return serving[:1] if self.setting.balancer == "none" else serving

    def _check_lanes(self, waiting: int) -> int:
        """The rules of slots; gives the number of calls on the replicas that have no outcome."""
        held = sum(call.granted and not call.over() for call in self._at_callers)
        serving = self._serving()
        for place in self._places:
            lane, replica = place.lane, place.replica
            held += sum(not call.over() for call in replica.inbox)
            abandoned = sum(call.over() for call in replica.running)
            held += len(replica.running) - abandoned
            if place.lost_already:
                continue
            granted = [call for call in self._at_callers if call.granted and call.lane is lane]
            taken = replica.taken + len(granted)
            if len(lane.free) + lane.withdrawn + taken != lane.slots:
                raise _BrokenRuleError(
                    f"{lane!r}: {len(lane.free)} slots free, {lane.withdrawn} withdrawn, {taken} taken, of {lane.slots}"
                )
            if lane.abandoned != abandoned:
                raise _BrokenRuleError(f"{lane!r}: {abandoned} abandoned calls run, counted are {lane.abandoned}")
            place.check_standby(granted, serves=place in serving or place.closed)
            if waiting and taken < lane.slots and place in serving and (lane.backlog or not self._binding):
                raise _BrokenRuleError(f"calls wait while {lane!r} has a free slot: {self._numbers()}")
        return held

    def _wake_callers(self) -> None:
        """Threads that were given a slot wake up some time."""
        if not self._at_callers:
            return
        self._at_callers = [call for call in self._at_callers if call.granted or not call.over()]
        for call in self._at_callers:
            if call.granted and not call.waking:
                call.waking = True
                self._clock.call_at(self._later(self._random.choice((0, 0, 1, 4))), lambda call=call: self._wake(call))  # type: ignore[misc]

    def _check_deadlines(self) -> None:
        """Calls that somebody watches have ended in time; to be asked when everything due has been done."""
        now = self._clock.monotonic()
        if self._clock.next_at() <= now:
            return
        for call in self._live:
            # A call that waits for its second start is watched until its deadline, not until it should have started.
            until = call.expires if call.unstarted() and not call.attempts else call.deadline
            if call.registered and now >= until:
                raise _BrokenRuleError(f"call {call.number} is watched and goes on though its time is over")

    def _check_nothing_left(self) -> None:
        """What must hold at the end."""
        router = self._router
        if self._live:
            raise _BrokenRuleError(f"no outcome: {self._name(self._live)}")
        room = len(router._room) + router._unminted  # noqa: SLF001 - a token that is lost shows nowhere else
        if room != self.setting.queue_size:
            raise _BrokenRuleError(f"{room} of {self.setting.queue_size} places in the queue are free at the end")
        if router.waiting or router.parked or self._at_callers:
            raise _BrokenRuleError(f"calls wait at the end: {self._numbers()}")
        if not self._idle:
            raise _BrokenRuleError("the router never said that the service is idle")
        for call in self._all:
            if call.ends != 1 or not call.over():
                raise _BrokenRuleError(f"call {call.number} has {call.ends} outcomes and {call!r}")
            if call.called_back != call.registered:
                raise _BrokenRuleError(
                    f"call {call.number} has {call.registered} done-callbacks, which ran {call.called_back} times"
                )
        if isinstance(self._balancer, _Raises) and self._balancer.mistakes != self._fenced:
            raise _BrokenRuleError(
                f"the balancer failed {self._balancer.mistakes} times, reported {self._fenced} times"
            )
        if self._calls != len(self._all) + self._refusals.total():
            raise _BrokenRuleError(f"{self._calls} calls, {len(self._all)} accepted, {self._refusals.total()} refused")

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
    raise _BrokenRuleError(f"a call ends with {error!r}")


#: What happens in a step, and how often.
_STEPS: Final = (
    ("call", 40),
    ("advance", 40),
    ("watch", 5),
    ("futures_wait", 1),
    ("look", 5),
    ("cancel", 6),
    ("abandon", 6),
    ("release", 6),
    ("replace", 8),
    ("kill", 2),
    ("close", 1),
    ("unavailable", 2),
    ("close_to_outsiders", 0.5),
    ("drain", 0.5),
)
