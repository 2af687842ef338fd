"""Runs the conformance suite for load balancers, and tests this balancer's own rules."""

from sage_deploy_testing import BalancerConformance
from sage_deploy_testing.doubles.fake_candidate import candidates


class TestExamplePlugin(BalancerConformance):
    plugin_id = "example_plugin"

    def test_busy_replica_gets_no_call(self):
        group = candidates(3)
        group[0].inflight = 5
        pick = self.picker(group)
        assert {pick(None, "get") for _ in range(10)} == set(group[1:])
