"""
A `Simulation` with a supervisor, which replaces replicas that die.

In `SupervisedSimulation(seed).run()` replicas die more often. Some calls kill each replica on which they start. Starts
fail, take long or find no place for a while. Sometimes replicas in a crash loop are restarted. It checks all rules of
`simulation.Simulation`, and these:

* A call that kills takes at most two replicas with it, and one if it may not run twice.
* Each start waits at least as long as the one before it, until a replica has been ready for long. The first start does
  not wait, and no wait is longer than the longest.
* At one position, at most five starts fail within a minute. Then, and only then, the position is in a crash loop, where
  nothing is started until a restart.
* While a replica is being replaced, no call is refused for lack of a replica.
* Without a load balancer, a replacement becomes the standby.
* When nothing fails any more, every position has a replica again, and the service serves.
"""

from __future__ import annotations

from collections import Counter
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

import attrs

from sage_deploy_testing.doubles.fake_replica import Act, Behaviour, FakeReplica
from sage_deploy_testing.simulation.simulated_calls import BrokenRuleError, Place, SimulatedCall
from sage_deploy_testing.simulation.simulation import Simulation
from sage_deploy_testing.simulation.simulation_setting import TICK, Setting
from sage_plugins.resilience.restarts import (
    LONGEST_WAIT_S,
    MOST_STARTS,
    STEADY_S,
    WINDOW_S,
    CrashLoop,
    Restarts,
    Start,
)
from sage_plugins.routing.router import Router
from sage_plugins.values import CallOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Timer

__all__ = ["SupervisedSimulation"]

#: The most seconds by which rounding changes the difference of two clock readings.
_ROUNDING: Final = 1e-6


class _Position:
    """What the rules know of one position."""

    def __init__(self) -> None:
        self.timer: Timer | None = None  # of its next step
        self.wait: float | None = None  # before the last start; None if the next start is a first one
        self.started_at = 0.0
        self.ready_at: float | None = None
        self.failed: list[float] = []
        self.loops = False


class SupervisedSimulation(Simulation):
    """
    One simulated run; see the module's docstring.

    Attributes:
        happened: How often each report to the supervisor and each of its decisions occurred.
    """

    STEPS: ClassVar[tuple[tuple[str, float], ...]] = (
        *((name, weight) for name, weight in Simulation.STEPS if name not in {"replace", "close", "unavailable"}),
        ("wait", 10),
        ("break", 3),
        ("mend", 3),
        ("restart", 2),
    )

    def __init__(
        self,
        seed: int,
        *,
        router: type[Router] = Router,
        replica: type[FakeReplica] = FakeReplica,
        restarts: type[Restarts] = Restarts,
        limits: bool = False,
    ) -> None:
        """
        Prepare the run. Nothing happens before `run`.

        Args:
            seed: Decides everything.
            router: The router class to test, together with the restarts.
            replica: The class of the fake replicas.
            restarts: Decides about restarts; tested together with the router.
            limits: As for `Simulation`.
        """
        random = Random(seed)  # noqa: S311 - no secret
        drawn = Setting.draw(random)
        if limits:
            drawn = drawn.limit(random)
        slots = tuple(random.choice((1, 1, 2, 3)) for _ in drawn.slots)
        dies = random.choice((0.03, 0.1, 0.2))
        # Under `in_callers_thread`, a replica would die with its callers.
        setting = attrs.evolve(drawn, in_callers_thread=False, slots=slots, dies=dies)
        super().__init__(seed, router=router, replica=replica, setting=setting, limits=limits)
        self._restarts = restarts(self._random)
        self._positions = [_Position() for _ in slots]
        self._heirs = 0
        self._fails = 0.1  # probability that a start fails
        self._is_refused = 0.1  # probability that a replica cannot be placed
        self.happened: Counter[str] = Counter()

    # -- steps -------------------------------------------------------------------------------------------------------

    def _step_wait(self) -> None:
        seconds = self._random.choice((1, 2, 5, 20, 70))
        self._tell(f"wait {seconds} s")
        self._move(seconds)

    def _step_break(self) -> None:
        self._fails, self._is_refused = self._random.choice(((0.9, 0.0), (0.0, 0.9), (1.0, 0.0)))
        self._tell(f"starts fail with {self._fails:g}, places are refused with {self._is_refused:g}")

    def _step_mend(self) -> None:
        self._fails = self._is_refused = 0.0
        self._tell("mend")

    def _step_restart(self) -> None:
        for index, position in enumerate(self._positions):
            if position.loops and not self._draining:
                self._tell(f"restart sim#{index}")
                self.happened["restart"] += 1
                self._restarts.stopped(index)
                self._positions[index] = _Position()
                self._start(index)

    def _step_drain(self) -> None:
        for position in self._positions:
            if position.timer is not None:
                position.timer.cancel()
        super()._step_drain()

    def _finish(self) -> None:
        """Check that every position recovers when nothing fails any more, then finish."""
        self._calm = True
        if not self._draining:
            self._step_mend()
            self._settle_down()
            self._step_restart()
            self._settle_down()
            self._check_recovered()
        super()._finish()

    def _check_recovered(self) -> None:
        if {lane.index for lane in self._router.lanes} != set(range(len(self.setting.slots))):
            raise BrokenRuleError(f"nothing is wrong any more, and replicas are missing: {self._numbers()}")
        if self._outsiders_out:
            return
        call = self._make()
        call.poison = False
        call.deadline = call.expires = inf
        self._route(call)
        self._settle_down()
        if call.starts != 1 or not call.over():
            raise BrokenRuleError(f"nothing is wrong any more, and call {call.number} was started {call.starts} times")

    # -- calls that kill ---------------------------------------------------------------------------------------------

    def _make(self) -> SimulatedCall:
        call = super()._make()
        call.poison = self._random.random() < 0.1  # noqa: PLR2004 - odds
        if call.poison and self._random.random() < 0.5:  # noqa: PLR2004 - odds
            call.options = CallOptions(call.options.key, idempotent=True)
        return call

    def _script(self, call: Call) -> Act:
        act = super()._script(call)
        if not self._mine(call).poison:
            return act
        self.happened["poison"] += 1
        return Act(self._random.choice((Behaviour.DIE_DURING, Behaviour.DIE_AFTER)), act.seconds)

    def _started(self, started: Call) -> None:
        super()._started(started)
        call = self._mine(started)
        idempotent = call.method.idempotent if call.options.idempotent is None else call.options.idempotent
        most = 2 if idempotent and self.setting.retry_lost else 1
        if call.poison and call.starts > most:
            raise BrokenRuleError(f"call {call.number}, which kills, was started {call.starts} times")
        if call.poison and call.starts == 2:  # noqa: PLR2004 - that is the most
            self.happened["second poison"] += 1

    # -- replicas ----------------------------------------------------------------------------------------------------

    def lost(self, place: Place, not_started: Sequence[Any], maybe: Sequence[Any], cause: BaseException) -> None:
        """Report the death of the replica of *place* to the router and the supervisor."""
        super().lost(place, not_started, maybe, cause)
        if self._draining:
            return
        index = place.lane.index
        position, now = self._positions[index], self._clock.monotonic()
        decision = self._restarts.died(index, now)
        lived = inf if position.ready_at is None else now - position.ready_at
        at_once = isinstance(decision, Start) and decision.at == now
        if lived > STEADY_S + _ROUNDING or (at_once and lived > STEADY_S - _ROUNDING):
            position.wait = None
        self._follow(index, "died", decision)

    def _follow(self, index: int, why: str, decision: Start | CrashLoop) -> None:
        """Check the supervisor's decision against the rules, and follow it."""
        position, now = self._positions[index], self._clock.monotonic()
        self.happened[why] += 1
        if isinstance(decision, CrashLoop):
            self._tell(f"sim#{index} {why}: crash loop")
            self.happened["crash loop"] += 1
            if not position.loops and not self._may_loop(position):
                raise BrokenRuleError(f"sim#{index} is in a crash loop after starts at {position.failed}")
            position.loops = True
            self._lose_hope()
            return
        if position.loops or self._may_loop(position):
            raise BrokenRuleError(f"sim#{index} is to be started again after starts at {position.failed}")
        wait = decision.at - now
        self._tell(f"sim#{index} {why}: start in {wait:g} s")
        before = position.wait if position.wait is not None else 0.0
        if not before - _ROUNDING <= wait <= LONGEST_WAIT_S + _ROUNDING:
            raise BrokenRuleError(f"sim#{index} waits {wait} s for its start, and waited {before} s before")
        if (position.wait is None and why == "died") is not (wait == 0):
            raise BrokenRuleError(f"sim#{index} {why} and waits {wait} s for its start")
        position.wait = max(wait, before)
        position.timer = self._clock.call_at(decision.at, lambda: self._place(index))

    def _may_loop(self, position: _Position) -> bool:
        last = position.failed[-MOST_STARTS:]
        return len(last) == MOST_STARTS and last[-1] - last[0] <= WINDOW_S

    def _lose_hope(self) -> None:
        if all(position.loops for position in self._positions) and not self._router.lanes:
            self._step_unavailable()

    def _place(self, index: int) -> None:
        if self._draining:
            return
        if self._random.random() < self._is_refused:
            self._follow(index, "unplaced", self._restarts.unplaced(index, self._clock.monotonic()))
        else:
            self._start(index)

    def _start(self, index: int) -> None:
        position, random = self._positions[index], self._random
        position.started_at, position.ready_at = self._clock.monotonic(), None
        self._tell(f"start sim#{index}")
        self._restarts.started(index, position.started_at)
        fails = random.random() < self._fails
        takes = random.choice((0, 1, 4, 16, 80)) * TICK
        position.timer = self._clock.call_at(
            self._clock.monotonic() + takes, lambda: self._has_failed(index) if fails else self._is_ready(index)
        )

    def _has_failed(self, index: int) -> None:
        if self._draining:
            return
        position = self._positions[index]
        position.failed.append(position.started_at)
        self._follow(index, "failed", self._restarts.failed(index, self._clock.monotonic()))

    def _is_ready(self, index: int) -> None:
        if self._draining:
            return
        self._positions[index].ready_at = now = self._clock.monotonic()
        self._restarts.ready(index, now)
        self._heirs += 1
        self._open(index, self.setting.slots[index])

    def _new_place(self, index: int) -> Place:
        return Place(self, self._router.lane(f"sim#{index}", index, self._heirs), self._heirs)
