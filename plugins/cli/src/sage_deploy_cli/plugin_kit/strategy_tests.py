"""Runs the conformance suite for threading strategies, and tests this strategy's own rules."""

from typing import ClassVar

from sage_deploy_testing import StrategyConformance


class TestExamplePlugin(StrategyConformance):
    plugin_id = "example_plugin"
    options: ClassVar = {"thread_name": "mine"}

    def test_thread_has_the_chosen_name(self):
        self.deploy()
        assert self.replica_threads() == ["svc#0-mine"]
