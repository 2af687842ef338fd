"""The rules of every strategy and autoscaler, and those of these two."""

from typing import ClassVar

from acme_strategies import Steady, SteadyOptions

from sage_deploy_testing import AutoscalerConformance, StrategyConformance
from sage_plugins.interfaces.autoscalers import Load


class TestDedicated(StrategyConformance):
    plugin_id = "dedicated"
    options: ClassVar = {"thread_name": "mine"}

    def test_thread_has_the_name_of_the_users_choice(self):
        self.deploy()
        assert self.replica_threads() == ["svc#0-mine"]


class TestSteady(AutoscalerConformance):
    plugin_id = "steady"
    options: ClassVar = {"busy": 0.5}


def test_autoscaler_keeps_slots_free():
    scaler = Steady(SteadyOptions(busy=0.5))
    load = Load(time_s=0.0, replicas=2, ready=2, slots=8, ongoing=8, queued=4)
    assert scaler.decide(load) == 6  # 12 calls in 24 slots
    assert scaler.decide(load._replace(ongoing=0, queued=0)) == 1
    assert scaler.decide(load._replace(ready=0, slots=0)) == 2
