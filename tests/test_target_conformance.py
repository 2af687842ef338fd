"""Every first-party target keeps the semantics that are the same for all."""

from __future__ import annotations

from sage_plugins.testing import TargetConformance


class TestLocal(TargetConformance):
    plugin_id = "local"

    def strategies(self):
        # tests/test_strategy_conformance.py runs the same cases under all of them, on this target.
        return ["single"]
