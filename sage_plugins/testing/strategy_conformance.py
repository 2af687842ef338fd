"""..."""

from __future__ import annotations

from sage_plugins.testing.call_cases import CallCases, CoroutineCases, ErrorCases, FutureCases

__all__ = ["StrategyConformance"]


class StrategyConformance(CallCases, ErrorCases, FutureCases, CoroutineCases):
    kind = "threading strategy"
    target = "local"

    @property
    def strategy(self) -> str:
        return self.plugin_id
