"""The first-party autoscaler passes the suite for all autoscalers."""

from __future__ import annotations

from sage_deploy_testing.suites.autoscaler_conformance import AutoscalerConformance


class TestTargetOngoing(AutoscalerConformance):
    plugin_id = "target_ongoing"
