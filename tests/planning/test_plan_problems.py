"""The plan: problems and warnings of configurations and plugins, and that planning starts nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from planned_nodes import MODULE, NodesPlugin, settings
from registrations import changed
from sage_plugins import ServiceDeploymentConfig, errors
from sage_plugins.plugins.discovery import DISABLED_VARIABLE
from sage_plugins.values import Problem


class TestProblems:
    def test_all_services_are_reported_at_once_with_their_places(self, env, tmp_path, monkeypatch):
        """Problems of all services are reported at once, with their places."""
        (tmp_path / "planned.py").write_text(MODULE)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.chdir(tmp_path)
        monkeypatch.delitem(sys.modules, "planned", raising=False)
        (tmp_path / "f.yaml").write_text(
            textwrap.dedent(
                """\
                services:
                  one:
                    class: planned:KV
                    init: {kwargs: {backnd: memory}}
                    threading_strategy: pol
                  two:
                    class: planned:KW
                    thread_count: 4
                  three:
                    class: nowhere:KV
                    target: elsewhere
                    monitors: [metrics, helth]
                """
            )
        )
        env.load_service_deployment_config("f.yaml")
        with pytest.raises(errors.PlanError) as caught:
            env.plan()
        assert {line.partition(":")[0] for line in str(caught.value).split("\n")} == {"f.yaml"}
        found = {(problem.line, problem.column, problem.id) for problem in caught.value.problems}
        assert found >= {
            (4, 21, "E704"),
            (4, 12, "E704"),
            (5, 25, "E207"),
            (7, 12, "E703"),
            (8, 19, "E301"),
            (10, 12, "E703"),
            (11, 13, "E207"),
            (12, 25, "E207"),
        }

    def test_one_unknown_id_of_a_file_is_an_unknown_plugin_error_with_its_place(self, env, tmp_path, monkeypatch):
        """One unknown ID in a file is an UnknownPluginError with its place and how to get the plugin."""
        monkeypatch.setenv(DISABLED_VARIABLE, "ray")
        file = tmp_path / "f.yaml"
        file.write_text("services:\n  kv:\n    class: builtins:dict\n    target: remote_any\n")
        env.load_service_deployment_config(file)
        with pytest.raises(errors.UnknownPluginError) as caught:
            env.plan()
        assert str(caught.value).startswith(f"{file}:4:13: error E207: services.kv.target: unknown target 'remote_any'")
        assert "sage-deploy-ray is installed, but disabled" in str(caught.value)
        assert caught.value.id == "remote_any"

    def test_warnings_of_a_file_have_their_places(self, planned, env, tmp_path):
        """Warnings about a file have their places."""
        file = tmp_path / "f.yaml"
        file.write_text(
            "options: {ray: {address: auto}}\nservices:\n  kv: {class: 'builtins:dict', memory_mb: 4Gi}\n  ghost: {}\n"
        )
        env.load_service_deployment_config(file)
        plan = env.plan()
        warnings = [*plan.services[0].warnings, *plan.notes]
        assert [(each.line, each.column, each.id) for each in warnings] == [
            (3, 43, "W05"),
            (1, 16, "W12"),
            (4, 3, "W16"),
        ]

    def test_an_entry_that_code_beats_is_named(self, env, tmp_path):
        """A file's entry that a configuration in code overrides is named in the plan."""
        file = tmp_path / "f.yaml"
        file.write_text("services: {kv: {timeout: 5}}")
        env.load_service_deployment_config(file)
        env.register_service_with_config("kv", dict, deployment_config=ServiceDeploymentConfig(timeout=7))
        plan = env.plan()
        assert "the entry has no effect: a configuration given in code overrides it" in str(plan)
        assert str(settings(plan)["timeout"].origin) == "argument"


def test_a_plan_starts_no_thread_and_imports_nothing_heavy():
    """A plan starts no thread and imports nothing heavy."""
    program = """
        import sys, threading

        def start(self):
            raise SystemExit(f"a plan started {self.name}")

        threading.Thread.start = start
        from sage_plugins import Environment, ServiceDeploymentConfig

        env = Environment()
        for strategy in ("single", "multi", "pool", "async", "inline"):
            config = ServiceDeploymentConfig(
                threading_strategy=strategy, replicas=2, load_balancing=True, monitors=["metrics", "health", "events"]
            )
            env.register_service_with_config(strategy, dict, deployment_config=config)
        plan = env.plan()
        assert len(plan.services) == 5 and plan.to_json() and str(plan)
        heavy = {"ray", "asyncio", "yaml", "click", "psutil", "numpy"} & set(sys.modules)
        assert not heavy, heavy
        assert threading.active_count() == 1
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr


def test_problems_can_be_read_from_the_json(env):
    """The JSON has each warning with rule, key, message and fix."""
    env.register_service_with_config("kv", dict, deployment_config=ServiceDeploymentConfig(failover_enabled=True))
    content = json.loads(env.plan().to_json())
    warning = content["services"][0]["warnings"][0]
    assert content["version"] == 1
    assert (warning["id"], warning["key"], warning["other"]) == ("W08", "failover_enabled", "replicas")
    assert "no effect with one replica" in warning["message"]
    assert warning["fix"] == "set replicas to 2 or more"


class TestChecksOfPlugins:
    @pytest.mark.parametrize("found", [[1], "text", None, [Problem(5, "timeout", "is odd")]], ids=str)
    def test_a_plugin_whose_check_gives_no_problems_is_named(self, on_nodes, found):
        """A plugin whose check returns no problems is named in the error."""
        plugin = NodesPlugin()
        plugin.registration = changed(plugin.registration, check=lambda config, options: found)
        env = on_nodes(plugin)
        for look in (env.plan, env.check):
            with pytest.raises(errors.PluginError, match=r"target 'nodes' .* failed to check service 'kv'"):
                look()

    @pytest.mark.parametrize("options", [lambda: 1 / 0, lambda: "text", int], ids=["raises", "text", "int"])
    def test_a_plugin_without_an_options_class_that_can_be_used_is_named(self, on_nodes, options):
        """A plugin without a usable options class is named in the error."""
        plugin = NodesPlugin()
        plugin.registration = changed(plugin.registration, options=options)
        with pytest.raises(errors.PluginError, match=r"target 'nodes' .* has no options class that can be used"):
            on_nodes(plugin).plan()
