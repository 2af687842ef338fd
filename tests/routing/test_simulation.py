"""
The router in virtual time: random courses of events, one for each seed, keep all its rules.

To repeat a seed that failed:

    SAGE_SIM_SEED=123 pytest tests/routing/test_simulation.py

For a seed of the simulation with limits use SAGE_SIM_LIMITED_SEED.
`make test` runs 300 seeds, `make test-long` a thousand.
`SAGE_SIM_SEEDS=100000 pytest tests/routing/test_simulation.py` runs more seeds.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from sage_deploy_testing.doubles.bundling_replica import BundlingReplica
from sage_deploy_testing.doubles.fake_replica import Behaviour, FakeReplica
from sage_deploy_testing.simulation.simulation import Setting, Simulation, SimulationFailure
from sage_plugins.routing.method_limits import MethodRouter
from sage_plugins.values import Outcome

CHUNK = 50
QUICK = 300
SEEDS = int(os.environ.get("SAGE_SIM_SEEDS", "1000"))
ONE_SEED = os.environ.get("SAGE_SIM_SEED")
ONE_LIMITED_SEED = os.environ.get("SAGE_SIM_LIMITED_SEED")
CHUNKS = [pytest.param(first, marks=pytest.mark.slow if first >= QUICK else []) for first in range(0, SEEDS, CHUNK)]
LIMITED = {"router": MethodRouter, "limits": True}
BUNDLED = {"replica": BundlingReplica}


def play(seed, **parts):
    """Return the report of one seed. A failure says how to repeat it."""
    try:
        return Simulation(seed, **parts).run()
    except SimulationFailure as error:
        failure = error
    # Fail outside the handler: inside, pytest would add three tracebacks that say nothing new.
    variable = "SAGE_SIM_LIMITED_SEED" if parts.get("limits") else "SAGE_SIM_SEED"
    again = f"{variable}={seed} pytest tests/routing/test_simulation.py"
    pytest.fail(f"{failure}\nplay it again: {again}", pytrace=False)


if ONE_SEED is not None:

    def test_the_one_seed_asked_for():
        """The router keeps its rules with the seed that SAGE_SIM_SEED names."""
        play(int(ONE_SEED))

elif ONE_LIMITED_SEED is not None:

    def test_the_one_seed_with_limits_asked_for():
        """The router keeps its rules with the seed that SAGE_SIM_LIMITED_SEED names."""
        play(int(ONE_LIMITED_SEED), **LIMITED)

else:

    @pytest.mark.parametrize("first", CHUNKS)
    def test_seeds_keep_the_rules(first):
        """Whatever callers and replicas do, the router keeps the rules of `simulation_rules`."""
        for seed in range(first, min(first + CHUNK, SEEDS)):
            play(seed)

    @pytest.mark.parametrize("first", CHUNKS)
    def test_seeds_with_limits_and_batches_keep_the_rules(first):
        """The rules hold when methods have concurrency limits or are answered in batches."""
        for seed in range(first, min(first + CHUNK, SEEDS)):
            play(seed, **LIMITED)

    @pytest.mark.parametrize("first", range(0, SEEDS // 4, CHUNK))
    def test_a_method_router_without_limits_keeps_the_rules_of_a_plain_one(first):
        """A `MethodRouter` without limits keeps the rules of a plain router."""
        for seed in range(first, min(first + CHUNK, SEEDS // 4)):
            play(seed, router=MethodRouter)

    @pytest.mark.parametrize("first", CHUNKS)
    def test_seeds_with_calls_sent_ahead_keep_the_rules(first):
        """The rules hold when replicas in other processes are sent calls ahead."""
        for seed in range(first, min(first + CHUNK, SEEDS)):
            play(seed, **BUNDLED)

    @pytest.mark.parametrize("first", range(0, SEEDS // 4, CHUNK))
    def test_seeds_with_limits_and_calls_sent_ahead_keep_the_rules(first):
        """The rules hold with method limits, batches and calls sent ahead together."""
        for seed in range(first, min(first + CHUNK, SEEDS // 4)):
            play(seed, **LIMITED, **BUNDLED)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "parts", [{}, LIMITED, BUNDLED, LIMITED | BUNDLED], ids=["plain", "limited", "ahead", "limited, ahead"]
    )
    @pytest.mark.parametrize("first", range(100_000, 120_000, 1000))
    def test_many_seeds_keep_the_rules(first, parts):
        """The rules hold for many more seeds, with and without limits, batches and calls sent ahead."""
        for seed in range(first, first + 1000):
            play(seed, **parts)


def test_seeds_bring_about_what_they_are_to_try():
    """A hundred seeds meet every outcome, behaviour and step often. Otherwise the rules would prove little."""
    outcomes, behaviours, steps, calls, refused = Counter(), Counter(), Counter(), 0, 0
    for seed in range(100):
        report = play(seed)
        outcomes += report.outcomes
        behaviours += report.behaviours
        steps += report.steps
        calls += report.calls
        refused += report.refused
    assert set(outcomes) == set(range(len(Outcome.NAMES)))
    assert set(behaviours) == set(Behaviour)
    assert min(outcomes.values()) >= 10
    assert min(behaviours.values()) >= 5
    assert min(steps.values()) >= 5
    assert refused >= calls / 20
    assert outcomes[Outcome.OK] >= calls / 10


def test_seeds_with_limits_bring_about_batches_of_every_size():
    """The seeds with limits meet every behaviour and batches of every size."""
    behaviours, batches = Counter(), Counter()
    for seed in range(100):
        report = play(seed, **LIMITED)
        behaviours += report.behaviours
        batches += report.batches
    assert set(behaviours) == set(Behaviour)
    assert set(batches) == {1, 2, 3, 4, 5}
    assert min(batches[size] for size in (1, 2, 3)) >= 10


def test_seeds_bring_about_calls_that_are_sent_ahead_and_come_back():
    """The seeds send calls ahead, and some of these calls return."""
    reports = [play(seed, **BUNDLED) for seed in range(200)]
    assert sum(report.sent_ahead for report in reports) >= 100
    assert sum(report.returned for report in reports) >= 20


class LosesSlots(FakeReplica):
    def free(self, call):
        pass


def test_a_failure_says_how_to_play_it_again():
    """The message of a failure says how to repeat it."""
    with pytest.raises(pytest.fail.Exception) as caught:
        play(7, replica=LosesSlots)
    assert "seed 7: " in str(caught.value)
    assert "last steps:" in str(caught.value)
    assert str(caught.value).endswith("SAGE_SIM_SEED=7 pytest tests/routing/test_simulation.py")


def test_a_seed_gives_the_same_course_of_events_every_time():
    """The same seed gives the same course of events every time."""
    assert play(7) == play(7)
    assert play(7) != play(8)


def test_a_setting_may_be_given_instead_of_drawn():
    """A simulation can run with a given setting in place of a random one."""
    setting = Setting(
        queue_size=3,
        reject=True,
        retry_lost=False,
        balancer="least",
        slots=(2, 2),
        in_callers_thread=False,
        steps=100,
        dies=0.0,
    )
    report = Simulation(1, setting=setting).run()
    assert sum(report.steps.values()) == 100
    assert report.outcomes[Outcome.DIED] == 0 or report.steps["kill"]
