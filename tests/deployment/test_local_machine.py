"""
Whatever happens to a deployed service, and in any order, it ends as a simple model says.

Hypothesis chooses the order: calls in every way, methods that return, raise or hang, cancelling, passing time,
draining, closing, deploying again. The service is real, with real threads; only its time is virtual. The model
(`local_machine.model`) has no threads. Each step first happens to the model, then to the service. The step is over when
both have the same state, and fails if they do not reach it.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from local_machine.machine import LocalMachine
from local_machine.service import PATIENCE
from local_machine.setting import STRATEGIES, UNIT_S, Setting

SHORT = settings(
    max_examples=12,
    stateful_step_count=60,
    phases=[Phase.generate],  # no shrinking: each try would wait for the machine's timeouts
    report_multiple_bugs=False,
    deadline=None,
    derandomize=True,  # the same steps each time, so that failures come from changes and not from luck
    database=None,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(SHORT, max_examples=500, stateful_step_count=60, derandomize=False)


def machine(strategy):
    return type(f"Machine_{strategy}", (LocalMachine,), {"strategy": strategy, "failures": []})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_whatever_happens_to_it_a_service_is_as_its_model_says(strategy):
    """Whatever happens to a service, in a short random course, its state is the model's."""
    run_state_machine_as_test(machine(strategy), settings=SHORT)


@pytest.mark.parametrize("strategy", ["single", "async"])
def test_a_caller_who_gets_room_at_the_very_moment_when_its_time_is_over_is_let_go(strategy):
    """
    A caller that gets queue space just when its time is over returns.

    Its thread can return before the model checks the call.
    """
    made = machine(strategy)()
    try:
        made.begin(Setting(strategy, 1, 1, 1, None, reject=False, queue_size=1, queue_timeout=UNIT_S, limit=None))
        for verb in ("call", "watched", "watched"):
            made.offer(verb, "work", "hang", None)
        (parked,) = made.life.parked
        advance = made.clock.advance

        def advance_until_it_is_back(seconds):
            advance(seconds)
            parked.caller.exception(PATIENCE)

        made.patch.setattr(made.clock, "advance", advance_until_it_is_back)
        made.let_time_pass(units=1)
        assert parked.outcome == "timeout in the queue"
    finally:
        made.teardown()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_whatever_happens_for_long_a_service_is_as_its_model_says(strategy):
    """Whatever happens to a service, in many random courses, its state is the model's."""
    run_state_machine_as_test(machine(strategy), settings=LONG)
