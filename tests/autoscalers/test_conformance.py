"""The first-party autoscaler keeps what is asked of all."""

from __future__ import annotations

from sage_deploy_testing.suites.autoscaler_conformance import AutoscalerConformance


class TestTargetOngoing(AutoscalerConformance):
    plugin_id = "target_ongoing"
