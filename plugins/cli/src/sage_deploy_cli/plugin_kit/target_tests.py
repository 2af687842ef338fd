"""Runs the conformance suite for targets, and tests this target's own rules."""

from typing import ClassVar

from sage_deploy_testing import TargetConformance
from sage_plugins import Environment, ServiceDeploymentConfig


class TestExamplePlugin(TargetConformance):
    plugin_id = "example_plugin"
    options: ClassVar = {"node": "bench"}


class Echo:
    def echo(self, value):
        return value


def test_status_shows_the_chosen_node():
    with Environment("placed") as env:
        config = ServiceDeploymentConfig(target="example_plugin", options={"example_plugin": {"node": "bench"}})
        env.register_service_with_config("echo", Echo, deployment_config=config)
        assert env.service("echo").echo(7) == 7
        assert env.get_service_status("echo")["replicas"][0]["node"] == "bench"
