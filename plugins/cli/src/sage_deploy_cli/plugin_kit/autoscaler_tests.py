"""Runs the conformance suite for autoscalers, and tests this autoscaler's own rules."""

from example_plugin import ExamplePlugin, ExamplePluginOptions

from sage_deploy_testing import AutoscalerConformance
from sage_plugins.interfaces.autoscalers import Load


class TestExamplePlugin(AutoscalerConformance):
    plugin_id = "example_plugin"


def test_half_of_the_slots_stay_free():
    scaler = ExamplePlugin(ExamplePluginOptions(busy=0.5))
    load = Load(time_s=0.0, replicas=2, ready=2, slots=8, ongoing=8, queued=4)
    assert scaler.decide(load) == 6  # 12 calls on 24 slots
