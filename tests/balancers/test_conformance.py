"""Every first-party load balancer passes the suite for all balancers."""

from __future__ import annotations

from sage_deploy_testing.suites.balancer_conformance import BalancerConformance


class TestRoundRobin(BalancerConformance):
    plugin_id = "round_robin"


class TestLeastLoaded(BalancerConformance):
    plugin_id = "least_loaded"


class TestRandom(BalancerConformance):
    plugin_id = "random"


class TestSeeded(BalancerConformance):
    plugin_id = "random"
    options = {"seed": 1}  # noqa: RUF012 - as the suite's users write it


class TestPowerOfTwo(BalancerConformance):
    plugin_id = "power_of_two"


class TestConsistentHash(BalancerConformance):
    plugin_id = "consistent_hash"


class TestConsistentHashWithoutBound(BalancerConformance):
    plugin_id = "consistent_hash"
    options = {"load_bound": None, "vnodes": 64}  # noqa: RUF012 - as the suite's users write it
