"""Finds the first seed whose simulation detects a faulty router or replica."""

from __future__ import annotations

import pytest

from sage_deploy_testing.simulation.simulation import Simulation, SimulationFailure

#: Most faults show within the first ten seeds.
SEEDS = 200


def first_failure(**parts):
    for seed in range(SEEDS):
        try:
            Simulation(seed, **parts).run()
        except SimulationFailure as failure:
            return seed, str(failure)
    return pytest.fail(f"{SEEDS} seeds did not find it out")
