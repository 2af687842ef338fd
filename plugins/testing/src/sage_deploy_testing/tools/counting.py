"""A service that records its own metrics, for the cases of targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sage_deploy_testing.tools.checkpoints import Checkpoint
    from sage_plugins.service.factory import ServiceContext

__all__ = ["Counting"]


class Counting:
    """A service with metrics of its own."""

    ctx: ServiceContext

    def count(self, checkpoint: Checkpoint, kind: str) -> None:
        """Count one of *kind*, set a gauge and observe a histogram."""
        self.ctx.metrics.counter("counted", labels=("kind",)).labels(kind).inc()
        self.ctx.metrics.gauge("there").set(1)
        self.ctx.metrics.histogram("size", buckets=(1, 2)).observe(1.5)
        checkpoint.reach()
