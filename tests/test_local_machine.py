"""
Whatever is done to a deployed service, and in whichever order, it ends as a simple model says.

Hypothesis makes up the order: calls by every verb, methods that return, raise or hang, cancelling, time that passes,
draining, closing, deploying again. The service is a real one, with real threads; only its time is virtual. Each step
first happens to the model (`local_machine.model`), which knows no threads, and then to the service; the step is over
when both are in the same state, and fails if they do not get there.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from local_machine.machine import LocalMachine
from local_machine.setting import STRATEGIES

SHORT = settings(
    max_examples=30,
    stateful_step_count=60,
    phases=[Phase.generate],  # to try for a shorter failure takes the machine's patience each time
    report_multiple_bugs=False,
    deadline=None,
    derandomize=True,  # a change is judged by what it changes, and not by luck
    database=None,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(SHORT, max_examples=500, stateful_step_count=60, derandomize=False)


def machine(strategy):
    return type(f"Machine_{strategy}", (LocalMachine,), {"strategy": strategy, "failures": []})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_whatever_happens_to_it_a_service_is_as_its_model_says(strategy):
    run_state_machine_as_test(machine(strategy), settings=SHORT)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_whatever_happens_for_long_a_service_is_as_its_model_says(strategy):
    run_state_machine_as_test(machine(strategy), settings=LONG)
