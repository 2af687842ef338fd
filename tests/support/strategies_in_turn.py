"""
For suites whose cases take long: `make test` runs a part of their cells, and `make test-long` all.

A cell is a case under one strategy, with one set of its parameters.
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
    Each case under one strategy, another for the next case; marked slow under the others.

    Attributes:
        one_in: One case in so many is not marked slow under its strategy either. If that is not each, then the case
            runs with one set of its parameters, and another case with another.
        elsewhere: A suite whose cases `make test` runs on the same target elsewhere: here they are marked slow.
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
    """Mark as slow all cells of a case but one, where not each case runs. Needs all cells of a case."""
    cells: dict[object, list[pytest.Item]] = defaultdict(list)
    for item in items:
        suite = getattr(item, "cls", None)
        if suite and issubclass(suite, StrategiesInTurn) and suite.one_in > 1 and not item.get_closest_marker("slow"):
            cells[suite, item.originalname].append(item)
    for (_, name), of_case in cells.items():
        kept = crc32(name.encode(), 2) % len(of_case)
        for item in (*of_case[:kept], *of_case[kept + 1 :]):
            item.add_marker(pytest.mark.slow)
