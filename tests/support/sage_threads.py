"""Tells the leak guard what SAGE keeps after a pipeline, without importing SAGE."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sage_deploy_testing.tools.leak_guard import Resources


class SageThreads:
    """The threads of SAGE's runtime, which all pipelines of the process share."""

    def held(self) -> frozenset[str]:
        """Return nothing: SAGE holds nothing in other processes."""
        return frozenset()

    def own(self, new: Resources) -> Resources:
        """Return the thread pool that runs the steps of linear batches."""
        threads = frozenset(thread for thread in new.threads if thread.name.startswith("sage_local_runtime_"))
        return type(new)(threads=threads)
