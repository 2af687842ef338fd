"""What SAGE keeps in a process that has run a pipeline; SAGE itself is not imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sage_deploy_testing.tools.leak_guard import Resources


class SageThreads:
    """The threads of SAGE's runtime, which are there for all pipelines of the process."""

    def held(self) -> frozenset[str]:
        """Nothing in other processes."""
        return frozenset()

    def own(self, new: Resources) -> Resources:
        """The pool that runs the steps of linear batches."""
        threads = frozenset(thread for thread in new.threads if thread.name.startswith("sage_local_runtime_"))
        return type(new)(threads=threads)
