"""
A router with replicas, callers and accidents in virtual time, all from one seed, and the rules that it must keep.

Imports `doubles`, `load_simulation`, `tools` and the core.
"""

from sage_deploy_testing.load_simulation.results.report import Report
from sage_deploy_testing.load_simulation.scenario.faults import Fault, FaultKind
from sage_deploy_testing.load_simulation.scenario.loads import Phase, uniform, zipf
from sage_deploy_testing.load_simulation.scenario.times import constant, exponential, lognormal, recorded
from sage_deploy_testing.load_simulation.simulated import Simulated, simulate

__all__ = [
    "Fault",
    "FaultKind",
    "Phase",
    "Report",
    "Simulated",
    "constant",
    "exponential",
    "lognormal",
    "recorded",
    "simulate",
    "uniform",
    "zipf",
]
