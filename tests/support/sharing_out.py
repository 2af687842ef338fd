"""Distributes tests among the processes of a test run."""

from __future__ import annotations

import re
from functools import cache, cached_property
from typing import TYPE_CHECKING, Final

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xdist.workermanage import WorkerController

#: The tests that share a Ray cluster, and how many of many processes run them. Each starts its own cluster.
_ON_A_CLUSTER: Final = "tests/ray/cluster/"
_CLUSTERS: Final = 2
#: Tests that need a process without Ray's runtime.
_WITHOUT_RUNTIME: Final = "tests/ray/"

_MARK = re.compile(r'\bxdist_group\("(\w+)"\)')


@cache
def _group(file: Path) -> str | None:
    found = _MARK.search(file.read_text(encoding="utf-8"))
    return found and found[1]


def _is_on_a_cluster(scope: str) -> bool:
    return scope.startswith(_ON_A_CLUSTER)


class TogetherOrOneByOne(LoadScopeScheduling):
    """
    Schedules files that are marked `xdist_group("NAME")` before all other tests, and all of one name to one process.

    The other tests go one by one, in order, to any free process. xdist's `loadgroup` promises the same. But with
    pytest 9.2, xdist 3.8 ignores the marks, and recounts all earlier tests for each test.

    With four or more processes, two run the tests on a cluster, and they begin with these. Clusters are expensive and
    their processes mostly wait, so other tests can use the processors meanwhile.
    """

    @cached_property
    def _for_clusters(self) -> frozenset[str]:
        """Names of the processes that run the tests on a cluster first. Empty: all processes run all tests in order."""
        is_mixed = len(set(map(_is_on_a_cluster, self.workqueue))) > 1
        many = len(self.nodes) >= 2 * _CLUSTERS
        return frozenset(node.gateway.id for node in self.nodes[:_CLUSTERS] if is_mixed and many)

    def _next_for(self, node: WorkerController) -> str | None:
        if not self._for_clusters:
            return next(iter(self.workqueue), None)
        if node.gateway.id in self._for_clusters:
            return self._first(_is_on_a_cluster) or self._first(lambda scope: not scope.startswith(_WITHOUT_RUNTIME))
        return self._first(lambda scope: not _is_on_a_cluster(scope))

    def _first(self, suits: Callable[[str], bool]) -> str | None:
        return next(filter(suits, self.workqueue), None)

    def _assign_work_unit(self, node: WorkerController) -> None:
        if (scope := self._next_for(node)) is not None:
            self.workqueue.move_to_end(scope, last=False)
            super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        if self._next_for(node) is None and not node.shutting_down:
            node.shutdown()
        else:
            super()._reschedule(node)

    def _split_scope(self, nodeid: str) -> str:
        return _group(self.config.rootpath / nodeid.partition("::")[0]) or nodeid

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        """Forget a group of tests of a process when all of them are complete."""
        super().mark_test_complete(node, item_index, duration)
        given, scope = self.assigned_work[node], self._split_scope(self.registered_collections[node][item_index])
        if all(given[scope].values()):
            del given[scope]
