"""Which process takes which tests, where several share them."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from pathlib import Path

    from xdist.workermanage import WorkerController

_MARK = re.compile(r'\bxdist_group\("(\w+)"\)')


@cache
def _group(file: Path) -> str | None:
    found = _MARK.search(file.read_text(encoding="utf-8"))
    return found and found[1]


class TogetherOrOneByOne(LoadScopeScheduling):
    """
    A file that is marked `xdist_group("NAME")` goes to one process, as do all with that name, before all other tests.

    The others go one by one, in their order, to whoever is free. That is what xdist's `loadgroup` promises. But with
    pytest 9.2 xdist 3.8 passes over the marks, and for each test it counts all those before.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _group(self.config.rootpath / nodeid.partition("::")[0]) or nodeid

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        """Forget what a process was given once it has done all of it."""
        super().mark_test_complete(node, item_index, duration)
        given, scope = self.assigned_work[node], self._split_scope(self.registered_collections[node][item_index])
        if all(given[scope].values()):
            del given[scope]
