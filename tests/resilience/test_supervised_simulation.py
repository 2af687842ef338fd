"""
Router and supervisor together in virtual time: random courses of events, one for each seed, and planted faults.

To repeat a seed that failed:

    SAGE_SUPERVISED_SEED=123 pytest tests/resilience/test_supervised_simulation.py

This runs the seed with and without method limits.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from sage_deploy_testing.simulation.simulation import SimulationFailure
from sage_deploy_testing.simulation.supervised_simulation import SupervisedSimulation
from sage_plugins.resilience.restarts import CrashLoop, Restarts, Start
from sage_plugins.routing.method_limits import MethodRouter
from sage_plugins.routing.router import Router
from sage_plugins.values import Outcome

CHUNK = 50
SEEDS = 300
ONE_SEED = os.environ.get("SAGE_SUPERVISED_SEED")
PARTS = {"plain": {}, "limited": {"router": MethodRouter, "limits": True}}


def play(seed, **parts):
    """Run the simulation of one seed and return it. A failure says how to repeat it."""
    simulation = SupervisedSimulation(seed, **parts)
    try:
        simulation.report = simulation.run()
    except SimulationFailure as error:
        failure = error
    else:
        return simulation
    # Fail outside the handler: inside, pytest would add three tracebacks that say nothing new.
    again = f"SAGE_SUPERVISED_SEED={seed} pytest tests/resilience/test_supervised_simulation.py"
    pytest.fail(f"{failure}\nplay it again: {again}", pytrace=False)


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
class TestSeeds:
    """Whatever happens, the rules of sage_deploy_testing.simulation.supervised_simulation hold."""

    if ONE_SEED is not None:

        def test_the_one_seed_asked_for(self, parts):
            """The rules hold for the seed that SAGE_SUPERVISED_SEED names."""
            play(int(ONE_SEED), **parts)

    else:

        @pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
        def test_seeds_keep_the_rules(self, first, parts):
            """The rules hold for 300 seeds."""
            for seed in range(first, first + CHUNK):
                play(seed, **parts)

        @pytest.mark.slow
        @pytest.mark.parametrize("first", range(100_000, 110_000, 500))
        def test_many_seeds_keep_the_rules(self, first, parts):
            """The rules hold for many more seeds."""
            for seed in range(first, first + 500):
                play(seed, **parts)


def test_seeds_bring_about_what_they_are_to_try():
    """The seeds meet deaths, failed starts, refused places, crash loops, restarts, and calls that kill two replicas."""
    happened, outcomes = Counter(), Counter()
    for seed in range(100):
        simulation = play(seed)
        happened += simulation.happened
        outcomes += simulation.report.outcomes
    assert set(happened) == {"died", "failed", "unplaced", "crash loop", "restart", "poison", "second poison"}
    assert min(happened.values()) >= 10
    assert set(outcomes) == set(range(len(Outcome.NAMES)))


def test_a_seed_gives_the_same_course_of_events_every_time():
    """The same seed gives the same course of events every time."""
    assert play(7).report == play(7).report
    assert play(7).report != play(8).report


# -- planted faults ----------------------------------------------------------------------------------------------------


class NeverLoops(Restarts):
    """Never finds a crash loop."""

    def _again(self, index, position, now):
        position.loops = False
        return super()._again(index, position, now)


class LoopsTooSoon(Restarts):
    """Finds a crash loop after four failures."""

    def failed(self, index, now):
        decision = super().failed(index, now)
        return CrashLoop(index) if len(self._position(index).failed) == 4 else decision


class LoopsForDeaths(Restarts):
    """Counts the deaths of ready replicas as failed starts."""

    def died(self, index, now):
        return super().failed(index, now)


class WaitsTheSame(Restarts):
    """Starts over with the shortest wait each time."""

    def _again(self, index, position, now):
        position.wait = 0.0
        return super()._again(index, position, now)


class WaitsAtFirst(Restarts):
    """Delays the first replacement, too."""

    def died(self, index, now):
        decision = super().died(index, now)
        return decision._replace(at=max(decision.at, now + 0.5)) if isinstance(decision, Start) else decision


class NeverForgives(Restarts):
    """Does not reset the waits after a replica was ready for long."""

    def ready(self, index, now):
        super().ready(index, now)
        self._position(index).ready_at = float("inf")


class RetriesForEver(Router):
    """Starts an idempotent call again however often its replica dies."""

    def lost(self, lane, not_started, maybe, cause):
        for call in maybe:
            for each in getattr(call, "calls", [call]):
                each.attempts = each.deaths = 0
        super().lost(lane, not_started, maybe, cause)


class RetriesAll(Router):
    """Starts calls again that are not idempotent."""

    def lost(self, lane, not_started, maybe, cause):
        for call in maybe:
            call.allow_second_start()
        super().lost(lane, (*not_started, *maybe), (), cause)


class ForgetsWhatWaited(Router):
    """Loses the calls that a dead replica had not started."""

    def lost(self, lane, not_started, maybe, cause):
        super().lost(lane, (), maybe, cause)


class FailsBack(Router):
    """Returns to the first replica when it is replaced."""

    def lane(self, id, index, seniority=0):
        return super().lane(id, index, 0 * seniority)


class StaysUnavailable(Router):
    """Goes on refusing calls after a replica has opened."""

    def open(self, lane, replica):
        unavailable = self._closing.unavailable
        super().open(lane, replica)
        if unavailable is not None:
            self._lanes.open = ()
            self.unavailable(unavailable)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (NeverLoops, "is to be started again after starts at"),
        (LoopsTooSoon, "is in a crash loop after starts at"),
        (LoopsForDeaths, "waits|crash loop"),
        (WaitsTheSame, "and waited"),
        (WaitsAtFirst, "waits"),
        (NeverForgives, "waits"),
        (RetriesForEver, "was started|was lost while it ran"),
        (RetriesAll, "is not to run twice|was started|over"),
        (ForgetsWhatWaited, "no outcome|still belongs to"),
        (FailsBack, "stands by and was sent a call|free slot"),
        (StaysUnavailable, "replicas are missing|without cause"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_fault_is_caught(fault, words):
    """A few seeds find each planted fault."""
    part = {"restarts" if issubclass(fault, Restarts) else "router": fault}

    def play_some():
        for seed in range(500):
            SupervisedSimulation(seed, **part).run()

    with pytest.raises(SimulationFailure, match=words):
        play_some()
