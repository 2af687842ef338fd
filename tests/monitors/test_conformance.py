"""Every first-party monitor keeps what is asked of all."""

from __future__ import annotations

from sage_deploy_testing.suites.monitor_conformance import MonitorConformance


class TestMetrics(MonitorConformance):
    plugin_id = "metrics"

    def lasting(self, summary):
        """All but what is measured of the present."""
        return {name: value for name, value in summary.items() if name not in {"cpu_usage", "memory_usage"}}


class TestEvents(MonitorConformance):
    plugin_id = "events"


class TestFewEvents(MonitorConformance):
    plugin_id = "events"
    options = {"size": 7}  # noqa: RUF012 - as the suite's users write it


class TestHealth(MonitorConformance):
    plugin_id = "health"
