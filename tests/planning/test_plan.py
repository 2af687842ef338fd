"""The plan: each value, its origin and who uses it, where replicas go, and what differs from what runs."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import attrs
import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from registrations import changed
from sage_plugins import Environment, ServiceDeploymentConfig, errors, hookimpl
from sage_plugins.config.service_config import fields
from sage_plugins.plugins.discovery import DISABLED_VARIABLE
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Explanation, Placed, Problem, Refused, Registration

OURS = (sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading)

FILE = """\
defaults:
  performance: {timeout: 10s}
profiles:
  busy:
    defaults: {queue_size: 5}
    services:
      kv: {options: {pool: {idle_timeout: 7}}}
services:
  kv:
    class: planned:KV
    init: {kwargs: {backend: memory, api_key: "${KV_KEY}"}}
    threading_strategy: pool
    thread_pool_size: ${KV_THREADS:-4}
    user_config: {db: {password: hunter2, size: 3}}
    methods: {get: {timeout: 250ms}}
"""

MODULE = """\
class KV:
    def __init__(self, backend, api_key):
        raise AssertionError("a plan builds nothing")

    def get(self, key):
        return key
"""


#: A list that contains itself.
ITSELF = []
ITSELF.append(ITSELF)


@attrs.frozen
class NodeOptions:
    zone: str = "a"


class Nodes:
    """A target with three nodes, of which one has room."""

    def __init__(self, options):
        self.closed = False

    def place(self, specs):
        full = {"node-b": "0 of 4 CPUs are free", "node-c": "has no label zone=a"}
        return [
            Placed("node-a", "the only node with room", full)
            if spec.index == 0
            else Refused("no node has room for it", {"node-a": "one replica a node", **full}, "E806")
            for spec in specs
        ]

    def start(self, spec, at, events, clock):
        raise AssertionError("a plan starts nothing")

    def close(self):
        self.closed = True


class Lying(Nodes):
    """A target whose texts have several lines."""

    def place(self, specs):
        return [Placed("node\nlie", "room\nlie"), Refused("no room", {"other\nlie": "full"})]


class NodesPlugin:
    """A third-party target that explains itself."""

    def __init__(self, explain=None, create=Nodes):
        self.registration = Registration(
            "nodes",
            create,
            "Replicas on my nodes",
            options=NodeOptions,
            explain=explain
            or (
                lambda config, options: [
                    f"only in zone {options.zone}",
                    Explanation("cpu_cores is reserved", "enforced"),
                    Explanation("memory_mb is a hint", "advisory"),
                ]
            ),
        )

    @hookimpl
    def sage_register_targets(self):
        return [self.registration]


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Makes an environment with the file, for a profile."""
    (tmp_path / "planned.py").write_text(MODULE)
    (tmp_path / "services.yaml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("KV_KEY", "sesame-open")
    monkeypatch.delitem(sys.modules, "planned", raising=False)

    def make(profile=None):
        env = Environment("planned")
        env.load_service_deployment_config("services.yaml", profile=profile)
        return env

    return make


@pytest.fixture
def on_nodes(environments):
    """Makes an environment with one service on the third-party target's nodes."""

    def make(plugin=None, **config):
        env = environments("nodes", registry=Registry.of(*OURS, plugin or NodesPlugin()))
        config = ServiceDeploymentConfig(target="nodes", **config)
        env.register_service_with_config("kv", type("KV", (), {"get": lambda self: 1}), deployment_config=config)
        return env

    return make


def settings(plan, name="kv"):
    (service,) = (each for each in plan.services if each.name == name)
    return {each.key: each for each in service.settings}


class TestSettings:
    @pytest.mark.parametrize(
        ("key", "value", "origin", "acts"),
        [
            ("timeout", 10.0, "services.yaml:2, defaults", "core"),
            ("queue_size", 5, "services.yaml:5, profile busy, defaults", "core"),
            ("options.pool.idle_timeout", 7.0, "services.yaml:7, profile busy", "strategy pool"),
            ("threading_strategy", "pool", "services.yaml:12", "strategy pool"),
            ("thread_pool_size", 4, "services.yaml:13, from $KV_THREADS", "strategy pool"),
            ("methods.get.timeout", 0.25, "services.yaml:15", "core"),
            ("user_config.db.size", 3, "services.yaml:14", "service"),
            ("replicas", 1, "default", "core"),
            ("cpu_cores", None, "default", "target local"),
            ("health_check_interval", 10.0, "default", "monitors metrics health events"),
            ("init.kwargs.backend", "a string", "services.yaml:11", "service"),
        ],
    )
    def test_each_value_has_its_origin_and_who_acts_on_it(self, planned, key, value, origin, acts):
        """Each value has its origin and the part that uses it."""
        found = settings(planned("busy").plan())[key]
        assert (found.value, str(found.origin), found.acts) == (value, origin, acts)

    def test_every_field_is_there(self, planned):
        """The plan has every field of the configuration, the options and the constructor's arguments."""
        found = settings(planned().plan())
        names = set(fields()) - {"options"}
        assert {key.partition(".")[0] for key in found} == names | {"options", "init"}

    def test_values_given_in_code_are_arguments(self, on_nodes):
        """Values given in code have the origin "argument"."""
        found = settings(on_nodes(timeout=5.0, options={"nodes": {"zone": "b"}}).plan())
        assert str(found["timeout"].origin) == "argument"
        assert str(found["queue_size"].origin) == "default"
        assert (found["options.nodes.zone"].value, str(found["options.nodes.zone"].origin)) == ("b", "argument")

    def test_secrets_and_constructor_arguments_are_nowhere_in_it(self, planned):
        """Neither the text, the JSON nor the essence of a plan contains a secret or a constructor argument."""
        env = planned()
        plan = env.plan()
        said = f"{plan}{plan.text(all_settings=True)}{plan.to_json()}{json.dumps(plan.essence())}"
        for secret in ("sesame", "hunter2", "memory'"):
            assert secret not in said
        assert "init.kwargs.api_key" in said
        assert settings(plan)["user_config.db.password"].value == "(hidden)"

    def test_a_value_with_a_secret_variable_in_it_is_one_too(self, planned, tmp_path, monkeypatch):
        """A value that contains a secret variable is hidden, whatever its name, for example a database URL."""
        monkeypatch.setenv("DB_PASSWORD", "swordfish")
        monkeypatch.setenv("DB_HOST", "db.example.org")
        url = '"postgres://me:${DB_PASSWORD}@${DB_HOST}/"'
        text = FILE.replace("size: 3", f'url: {url}, hosts: ["${{DB_HOST}}"], urls: [{url}]')
        (tmp_path / "services.yaml").write_text(text)
        plan = planned().plan()
        assert "swordfish" not in f"{plan.text(all_settings=True)}{plan.to_json()}{json.dumps(plan.essence())}"
        assert settings(plan)["user_config.db.url"].value == "(hidden)"
        assert settings(plan)["user_config.db.urls"].value == "(hidden)"
        assert settings(plan)["user_config.db.hosts"].value == ["db.example.org"]

    def test_a_secret_that_changed_is_a_difference(self, planned, monkeypatch):
        """A secret that changed is a difference."""
        before = planned().plan()
        assert before.essence() == planned().plan().essence()
        monkeypatch.setenv("KV_KEY", "another")
        after = planned().plan()
        changed = {key for key, value in after.essence()["kv"].items() if before.essence()["kv"][key] != value}
        assert changed == {"init.kwargs.api_key"}

    @pytest.mark.parametrize("argument", [{("a", 1): 2}, {1: 2, "b": 3}, ITSELF], ids=["tuple", "mixed", "itself"])
    def test_any_argument_of_a_constructor_can_be_planned(self, env, argument):
        """Any constructor argument can be planned, even one that JSON lacks. The same object gives no difference."""
        env.register_service("kv", dict, argument)
        before = env.plan()
        assert settings(before)["init.args.0"].digest
        assert env.plan().essence() == before.essence()


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


class TestDifferences:
    def test_what_does_not_run_is_to_be_added(self, planned):
        """A service that does not run is to be added."""
        plan = planned().plan()
        assert [(each.name, each.action) for each in plan.services] == [("kv", "add")]
        assert plan.has_changes
        assert str(plan).startswith("+ kv  (planned:KV)")

    def test_what_runs_as_configured_is_kept(self, env):
        """A service that runs as configured is kept."""
        env.register_service("kv", dict)
        env.deploy()
        plan = env.plan()
        assert [each.action for each in plan.services] == ["keep"]
        assert not plan.has_changes
        assert str(plan).endswith("Plan: nothing to do, 1 service as configured.")

    def test_what_runs_otherwise_is_to_be_changed_value_by_value(self, env, tmp_path):
        """A service that runs with other settings is to be changed, and the plan shows each value."""
        file = tmp_path / "f.yaml"
        file.write_text("services: {kv: {class: 'collections:Counter', timeout: 5, methods: {get: {timeout: 1}}}}")
        env.load_service_deployment_config(file)
        env.deploy()
        file.write_text("services: {kv: {class: 'collections:Counter', timeout: 7, init: {kwargs: {a: 1}}}}")
        env.load_service_deployment_config(file)
        (service,) = env.plan().services
        assert service.action == "change"
        changes = {change.key: (change.old, change.new) for change in service.changes}
        assert changes.pop("init.kwargs.a")[0] is None
        assert changes == {"timeout": (5.0, 7.0), "methods.get.timeout": (1, None), "methods": (None, {})}
        assert "    ~ timeout: 5 -> 7" in str(env.plan())
        assert str(env.plan()).endswith("Plan: 0 to start, 1 to change, 0 to stop, 0 unchanged.")

    def test_what_was_scaled_by_hand_is_a_difference(self, env):
        """A number of replicas changed with `scale` is a difference."""
        env.register_service("kv", dict)
        env.deploy()
        env.scale("kv", 2)
        (service,) = env.plan().services
        assert ("replicas", 2, 1) in [(each.key, each.old, each.new) for each in service.changes]

    def test_what_is_not_configured_any_more_is_to_be_removed(self, env, tmp_path):
        """A service that is no longer configured is to be removed."""
        file = tmp_path / "f.yaml"
        file.write_text("services: {kv: {class: 'builtins:dict'}, old: {class: 'builtins:dict'}}")
        env.load_service_deployment_config(file)
        env.deploy()
        file.write_text("services: {kv: {class: 'builtins:dict'}}")
        env.load_service_deployment_config(file)
        plan = env.plan()
        assert [(each.name, each.action) for each in plan.services] == [("kv", "keep"), ("old", "remove")]
        assert "- old  (builtins:dict) runs, and is not configured any more" in str(plan)

    @pytest.mark.parametrize("key", ["it's", "plain"])
    def test_a_value_that_is_new_is_a_difference_whatever_its_key(self, env, key):
        """A new value is a difference, whatever its key, even one with a quote."""
        env.register_service("kv", dict)
        running = env.plan().essence()
        env.register_service_with_config("kv", dict, deployment_config=ServiceDeploymentConfig(user_config={key: 1}))
        (service,) = env.plan(running).services
        assert (service.action, service.changes[0].key) == ("change", f"user_config.{key}")

    def test_another_version_of_a_plugin_is_a_difference(self, env):
        """Another version of a plugin is a difference."""
        env.register_service("kv", dict)
        running = env.plan().essence()
        running["kv"]["strategy 'single'"] = "sage-deploy-threading 0.0.1"
        (service,) = env.plan({"kv": running["kv"]}).services
        assert "strategy 'single'" in [change.key for change in service.changes]


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


class TestValuesOfAllKinds:
    """Plans can be made, compared and written as JSON, whatever the values."""

    @pytest.mark.parametrize(
        "value",
        [
            {1: "one", "two": 2},
            {(1, 2): "a pair"},
            float("nan"),
            b"bytes",
            {"a", "set"},
            object(),
            "\ud800",
            10**5000,
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_arguments_of_constructors(self, env, value):
        env.register_service("kv", type("KV", (), {"__init__": lambda self, value: None}), value)
        env.apply()
        assert not env.plan().has_changes
        json.loads(env.plan().to_json())

    @pytest.mark.parametrize("deep", [False, True])
    def test_arguments_without_an_end(self, env, deep):
        """A constructor argument that contains itself, or is nested too deep to walk, can be planned."""
        value = []
        if deep:
            for _ in range(5000):
                value = [value]
        else:
            value.append(value)
        env.register_service("kv", type("KV", (), {"__init__": lambda self, value: None}), value)
        env.apply()
        assert not env.plan().has_changes

    def test_options_that_json_does_not_have(self, on_nodes):
        """Options that JSON lacks are written as texts or sorted lists that are the same each time."""

        @attrs.frozen
        class Options:
            limit: float = float("inf")
            unknown: float = float("nan")
            names: frozenset = frozenset({"ada", "grace", "kathleen"})
            thing: object = attrs.Factory(object)

        plugin = NodesPlugin(explain=lambda config, options: [])
        plugin.registration = changed(plugin.registration, options=Options)
        env = on_nodes(plugin)
        text = env.plan().to_json()

        def refuse(constant):
            raise AssertionError(constant)

        found = {
            each["key"]: each["value"] for each in json.loads(text, parse_constant=refuse)["services"][0]["settings"]
        }
        assert found["options.nodes.limit"] == "inf"
        assert found["options.nodes.names"] == ["ada", "grace", "kathleen"]
        assert found["options.nodes.thing"] == "an object of class object"
        assert env.plan().essence() == env.plan().essence()


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
