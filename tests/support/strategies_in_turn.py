"""For suites whose cases take long: each runs under one strategy in `make test`, and under all in `make test-long`."""

from __future__ import annotations

from zlib import crc32

import pytest

from sage_deploy_testing import TargetConformance


class StrategiesInTurn(TargetConformance):
    """
    Each case under one strategy, another for the next case; marked slow under the others.

    Attributes:
        one_in: One case in so many is not marked slow under its strategy either.
    """

    one_in = 1

    def strategies(self):
        return ["single", "multi", "pool", "async"]

    def pytest_generate_tests(self, metafunc):
        super(TargetConformance, self).pytest_generate_tests(metafunc)
        name = metafunc.function.__name__.encode()
        quick = self.strategy_in_turn(metafunc.function) if crc32(name, 1) % self.one_in == 0 else None
        metafunc.parametrize(
            "strategy", [pytest.param(id, marks=[] if id == quick else pytest.mark.slow) for id in self.strategies()]
        )
