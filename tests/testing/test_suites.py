"""Which plugins the conformance suites run with, and which cases they skip."""

from __future__ import annotations

import gc
import weakref

import pytest

import sage_deploy_threading
from sage_deploy_local.target import LocalTarget
from sage_deploy_testing import StrategyConformance, TargetConformance
from sage_plugins import hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration


def suite_of(*capabilities):
    class Plugin:
        @hookimpl
        def sage_register_targets(self):
            declared = frozenset(capabilities)
            return [Registration("elsewhere", lambda _: LocalTarget(), "Of the tests", capabilities=declared)]

    class Suite(TargetConformance):
        plugin_id = "elsewhere"
        strategy = "single"

        def registry(self):
            return Registry.of(sage_deploy_threading, Plugin())

    return Suite()


def test_suite_runs_with_the_first_party_plugins_and_not_with_what_else_is_installed():
    """A suite for a first-party plugin runs with the first-party plugins only, whatever else is installed."""
    assert "remote_any" in Registry.discover().ids("target")

    class Suite(StrategyConformance):
        plugin_id = "single"

    registry = Suite().registry()
    assert registry.ids("target") == ("local",)
    assert "round_robin" in registry.ids("load balancer")


def test_suite_runs_with_the_distribution_of_its_plugin():
    """A suite for an installed third-party plugin also loads the distribution of this plugin."""

    class Suite(TargetConformance):
        plugin_id = "remote_any"

    assert {"local", "remote_any"} <= set(Suite().registry().ids("target"))
    assert "single" in Suite().strategies()


def test_strategy_that_the_target_cannot_run_is_left_out():
    """A suite leaves out strategies that the target cannot run: `inline` needs `in_process`."""
    assert "inline" not in suite_of().strategies()
    assert "inline" in suite_of("in_process").strategies()


@pytest.mark.parametrize(
    "case", ["test_error_of_an_inner_call_arrives_outside", "test_inner_calls_are_served_while_draining"]
)
def test_inner_calls_need_a_target_whose_replicas_reach_others(case):
    """Cases with inner calls are skipped for a target that declares neither `in_process` nor `reachable`."""
    unsupported = suite_of().unsupported(getattr(TargetConformance, case))
    assert unsupported == "declared unsupported: 'elsewhere' declares neither 'in_process' nor 'reachable'"
    for capability in ("in_process", "reachable"):
        assert suite_of(capability).unsupported(getattr(TargetConformance, case)) is None


def test_no_service_outlives_its_case():
    """After a case, the suite keeps no environment: pytest keeps the suite's object until the end of the run."""

    class Suite(StrategyConformance):
        plugin_id = "single"

    suite = Suite()
    with suite.stage():
        env = weakref.ref(suite.environment())
    gc.collect()
    assert env() is None
