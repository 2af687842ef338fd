"""..."""

from __future__ import annotations

from sage_plugins.testing.call_cases import CallCases, CoroutineCases, ErrorCases, FutureCases
from sage_plugins.testing.deadline_cases import DeadlineCases, QueueDeadlineCases, TravellingDeadlineCases

__all__ = ["StrategyConformance"]


class StrategyConformance(
    CallCases, ErrorCases, FutureCases, CoroutineCases, DeadlineCases, QueueDeadlineCases, TravellingDeadlineCases
):
    kind = "threading strategy"
    target = "local"

    @property
    def strategy(self) -> str:
        return self.plugin_id
