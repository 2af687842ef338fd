"""
A router with replicas, callers and accidents in virtual time, all from one seed, and the rules that it checks.

Imports `doubles`, `tools` and the core.
"""

from sage_deploy_testing.simulating.results.report import Report
from sage_deploy_testing.simulating.scenario.faults import Fault, FaultKind
from sage_deploy_testing.simulating.scenario.loads import Phase, uniform, zipf
from sage_deploy_testing.simulating.scenario.times import constant, exponential, lognormal, recorded
from sage_deploy_testing.simulating.simulated import Simulated, simulate

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
