"""
The targets on a Ray cluster keep the semantics that are the same for all targets.

Replicas start slowly here, so `make test` runs each case under one strategy, in turn, and `make test-long` under all.
"""

from __future__ import annotations

from typing import ClassVar
from zlib import crc32

import pytest

from killing import kill_replica
from sage_plugins.testing import TargetConformance

pytestmark = pytest.mark.ray

STRATEGIES = ("single", "multi", "pool", "async")


@pytest.mark.usefixtures("cluster")
class TestRemoteAny(TargetConformance):
    plugin_id = "remote_any"
    config: ClassVar = {"cpu_cores": 0.1}
    starting = 3.0  # a process takes longer than a thread

    def strategies(self):
        return STRATEGIES

    def pytest_generate_tests(self, metafunc):
        super(TargetConformance, self).pytest_generate_tests(metafunc)
        quick = self.strategy_in_turn(metafunc.function)
        metafunc.parametrize(
            "strategy", [pytest.param(each, marks=[] if each == quick else pytest.mark.slow) for each in STRATEGIES]
        )

    def strategy_in_turn(self, case):
        """One under which the case runs; another for the next case."""
        first = crc32(case.__name__.encode()) % len(STRATEGIES)
        for self.strategy in (*STRATEGIES[first:], *STRATEGIES[:first]):
            if self.unsupported(case) is None:
                break
        return self.strategy

    def kill(self, service, replica_id):
        kill_replica(service.status, replica_id)
