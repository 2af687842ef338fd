"""The plan: where replicas go and why, and what is enforced or only advisory."""

from __future__ import annotations

import json

import pytest

from planned_nodes import OURS, Lying, Nodes, NodesPlugin
from registrations import changed
from sage_plugins import ServiceDeploymentConfig, errors, hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Explanation, Placed, Registration


class TestPlacement:
    def test_each_replica_says_where_it_goes_and_why_not_elsewhere(self, on_nodes):
        """The plan says for each replica where it goes and why not elsewhere."""
        plan = on_nodes(replicas=2, load_balancing=True).plan()
        first, second = plan.services[0].replicas
        assert (first.where, first.refused["node-c"]) == ("node-a", "has no label zone=a")
        assert (second.where, second.reason, second.rule) == (None, "no node has room for it", "E806")
        assert plan.unplaced == (second,)
        text = str(plan)
        assert "kv#0 -> node-a  (the only node with room)" in text
        assert "- not node-b: 0 of 4 CPUs are free" in text
        assert "! replica   kv#1 -> nowhere  (error E806: no node has room for it)" in text
        assert json.loads(plan.to_json())["services"][0]["replicas"][1]["where"] is None

    def test_deployment_without_a_place_says_the_rule_and_the_reason_for_each_node(self, on_nodes):
        """If a replica cannot be placed, the deployment's error has the rule and each node's reason."""
        with pytest.raises(errors.DeployError) as caught:
            on_nodes(replicas=2, load_balancing=True).deploy()
        first, *nodes = str(caught.value).split("\n")
        assert first.endswith("replica kv#1 cannot be placed: error E806: no node has room for it")
        assert "  node-a: one replica a node" in nodes

    @pytest.mark.parametrize("places", [None, [], [5], "x", [Placed("a", "b")] * 3, [Placed("a", "b", None)]], ids=str)
    def test_a_target_that_gives_no_place_for_each_replica_is_named(self, on_nodes, places):
        """A target that does not return one place for each replica is named in the error."""

        class Odd(Nodes):
            def place(self, specs):
                return places

        with pytest.raises(errors.PluginError, match=r"target 'nodes' .* failed to say where replicas go"):
            on_nodes(NodesPlugin(create=Odd)).plan()

    def test_the_target_that_was_asked_is_closed_also_if_it_fails(self, on_nodes):
        """The target that was asked for places is closed, even if it fails."""
        made = []

        class Broken(Nodes):
            def __init__(self, options):
                super().__init__(options)
                made.append(self)

            def place(self, specs):
                raise OSError("no cluster")

        with pytest.raises(errors.PluginError, match=r"target 'nodes' .* where replicas go: OSError: no cluster"):
            on_nodes(NodesPlugin(create=Broken)).plan()
        assert [each.closed for each in made] == [True]


class TestExplanations:
    def test_a_strangers_plugin_says_what_is_enforced_and_what_is_advisory(self, on_nodes):
        """A third-party plugin's explanation says what is enforced and what is advisory."""
        plan = on_nodes(options={"nodes": {"zone": "b"}}).plan()
        text = str(plan)
        assert "- only in zone b" in text
        assert "- enforced: cpu_cores is reserved" in text
        assert "- advisory: memory_mb is a hint" in text
        target = json.loads(plan.to_json())["services"][0]["decisions"][0]
        assert target["explanation"][2] == {"text": "memory_mb is a hint", "kind": "advisory"}

    def test_a_plugin_that_fails_to_explain_is_named(self, on_nodes):
        """A plugin that fails to explain itself is named in the error."""

        def explain(config, options):
            raise KeyError("zone")

        with pytest.raises(errors.PluginError, match=r"target 'nodes' .* failed to explain itself: KeyError: 'zone'"):
            on_nodes(NodesPlugin(explain=explain)).plan()

    @pytest.mark.parametrize(
        "line",
        [1, None, object(), Explanation("a line", "certain"), Explanation(1)],
        ids=["number", "nothing", "object", "unknown kind", "no text"],
    )
    def test_a_plugin_that_gives_no_lines_is_named(self, on_nodes, line):
        """A plugin whose explanation is not made of lines is named in the error."""
        with pytest.raises(errors.PluginError, match=r"target 'nodes' .* failed to explain itself: .*explain gave"):
            on_nodes(NodesPlugin(explain=lambda config, options: [line])).plan()

    def test_what_plugins_and_files_say_stays_on_its_line(self, on_nodes):
        """
        Line breaks in texts of plugins and files are escaped, so that no text can pose as another line of the plan.
        """
        plugin = NodesPlugin(explain=lambda config, options: ["explained\nlie"])
        plugin.registration = changed(plugin.registration, summary="nodes\nlie", create=Lying)
        plan = on_nodes(plugin, user_config={"key\nlie": 1}, replicas=2, load_balancing=True).plan()
        assert plan.text(all_settings=True).count("\\nlie") == 6
        assert not any(line.startswith("lie") for line in str(plan).splitlines())

    @pytest.mark.parametrize(
        ("strategy", "words"),
        [
            ("single", "keeps the replica busy until it ends"),
            ("multi", "keeps its thread until it ends, a coroutine is cancelled"),
            ("pool", "keeps its thread until it ends, a coroutine is cancelled"),
            ("async", "a coroutine is cancelled, a method on a helper thread runs on"),
            ("inline", "cannot release its caller before it ends"),
        ],
    )
    def test_each_strategy_says_what_a_time_out_can_stop(self, env, strategy, words):
        """The plan says for each strategy what a timeout can stop."""
        config = ServiceDeploymentConfig(threading_strategy=strategy, timeout=3)
        env.register_service_with_config("kv", type("KV", (), {"get": lambda self: 1}), deployment_config=config)
        (service,) = env.plan().services
        assert service.timeouts[0] == "3 s from call to answer, waiting included"
        assert words in service.timeouts[-1]

    def test_of_a_silent_strategy_its_capabilities_say_it(self, environments):
        """If a strategy does not explain its timeouts, the plan derives the line from its capabilities."""

        class Silent:
            @hookimpl
            def sage_register_threading_strategies(self):
                from sage_deploy_threading import _create_single

                return [
                    Registration("releasing", _create_single, "x", capabilities=frozenset({"releases_at_deadline"})),
                    Registration("holding", _create_single, "x"),
                ]

        for id, words in (("releasing", "does not say whether the method stops"), ("holding", "may hold its caller")):
            env = environments(id, registry=Registry.of(*OURS, Silent()))
            config = ServiceDeploymentConfig(threading_strategy=id)
            env.register_service_with_config("kv", type("KV", (), {"get": lambda self: 1}), deployment_config=config)
            assert words in env.plan().services[0].timeouts[-1]
