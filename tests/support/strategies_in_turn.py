"""
For suites with slow cases: `make test` runs a part of their cells, and `make test-long` runs all.

A cell is a case with one strategy and one set of parameters.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, ClassVar
from zlib import crc32

import pytest

from sage_deploy_testing import TargetConformance
from sage_deploy_testing.suites.conformance import Conformance

if TYPE_CHECKING:
    from collections.abc import Iterable


class StrategiesInTurn(TargetConformance):
    """
    Runs each case with one strategy, and the next case with another. Other combinations are marked slow.

    Attributes:
        one_in: Only one case in *one_in* is not marked slow. If it is above 1, such a case also runs with only one
            set of its parameters.
        elsewhere: A suite whose cases `make test` already runs on the same target. They are marked slow here.
    """

    one_in = 1
    elsewhere: ClassVar[type | None] = None

    def strategies(self):
        return ["single", "multi", "pool", "async"]

    def pytest_generate_tests(self, metafunc):
        super(TargetConformance, self).pytest_generate_tests(metafunc)
        name = metafunc.function.__name__
        is_elsewhere = hasattr(self.elsewhere, name) and not hasattr(Conformance, name)
        is_quick = crc32(name.encode(), 1) % self.one_in == 0 and not is_elsewhere
        quick = self.strategy_in_turn(metafunc.function) if is_quick else None
        metafunc.parametrize(
            "strategy", [pytest.param(id, marks=[] if id == quick else pytest.mark.slow) for id in self.strategies()]
        )


def mark_cells(items: Iterable[pytest.Item]) -> None:
    """Mark all cells of a case but one as slow, in suites with `one_in` above 1. Needs all cells of a case."""
    cells: dict[object, list[pytest.Item]] = defaultdict(list)
    for item in items:
        suite = getattr(item, "cls", None)
        if suite and issubclass(suite, StrategiesInTurn) and suite.one_in > 1 and not item.get_closest_marker("slow"):
            cells[suite, item.originalname].append(item)
    for (_, name), of_case in cells.items():
        kept = crc32(name.encode(), 2) % len(of_case)
        for item in (*of_case[:kept], *of_case[kept + 1 :]):
            item.add_marker(pytest.mark.slow)
