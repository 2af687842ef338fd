"""Runs the conformance suite for monitors, and tests this monitor's own rules."""

import pytest

from sage_deploy_testing import MonitorConformance
from sage_plugins import Environment, ServiceDeploymentConfig


class TestExamplePlugin(MonitorConformance):
    plugin_id = "example_plugin"

    def outcomes(self, summary):
        return {"error": sum(summary.values())}


class Divider:
    def divide(self, dividend, divisor):
        return dividend / divisor


def test_failed_calls_are_counted_by_method():
    with Environment("watched") as env:
        config = ServiceDeploymentConfig(monitors=["example_plugin"])
        env.register_service_with_config("divider", Divider, deployment_config=config)
        assert env.service("divider").divide(6, 3) == 2
        with pytest.raises(ZeroDivisionError):
            env.service("divider").divide(6, 0)
        assert env.get_service_status("divider")["monitors"]["example_plugin"] == {"divide": 1}
