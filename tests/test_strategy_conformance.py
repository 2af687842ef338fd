"""Every first-party threading strategy keeps the semantics that are the same for all."""

from __future__ import annotations

from sage_plugins.testing import StrategyConformance


class TestSingle(StrategyConformance):
    plugin_id = "single"


class TestPool(StrategyConformance):
    plugin_id = "pool"


class TestInline(StrategyConformance):
    plugin_id = "inline"
