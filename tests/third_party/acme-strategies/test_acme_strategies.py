"""The conformance suites for strategies and autoscalers, and tests of these two alone."""

from typing import ClassVar

from acme_strategies import Steady, SteadyOptions

from sage_deploy_testing import AutoscalerConformance, StrategyConformance
from sage_plugins.interfaces.autoscalers import Load


class TestDedicated(StrategyConformance):
    plugin_id = "dedicated"
    options: ClassVar = {"thread_name": "mine"}

    def test_thread_has_the_name_of_the_users_choice(self):
        """The replica's thread has the name from the options."""
        self.deploy()
        assert self.replica_threads() == ["svc#0-mine"]


class TestSteady(AutoscalerConformance):
    plugin_id = "steady"
    options: ClassVar = {"busy": 0.5}


def test_autoscaler_keeps_slots_free():
    """The autoscaler wants so many replicas that a share of the slots stays free."""
    scaler = Steady(SteadyOptions(busy=0.5))
    load = Load(time_s=0.0, replicas=2, ready=2, slots=8, ongoing=8, queued=4)
    assert scaler.decide(load) == 6  # 12 calls in 24 slots
    assert scaler.decide(load._replace(ongoing=0, queued=0)) == 1
    assert scaler.decide(load._replace(ready=0, slots=0)) == 2
