"""Every first-party monitor passes the suite for all monitors."""

from __future__ import annotations

from sage_deploy_testing.suites.monitor_conformance import MonitorConformance


class TestMetrics(MonitorConformance):
    plugin_id = "metrics"


class TestEvents(MonitorConformance):
    plugin_id = "events"


class TestFewEvents(MonitorConformance):
    plugin_id = "events"
    options = {"size": 7}  # noqa: RUF012 - as the suite's users write it


class TestHealth(MonitorConformance):
    plugin_id = "health"
