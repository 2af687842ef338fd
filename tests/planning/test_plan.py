"""The plan: each value, its origin and who uses it, and what differs from what runs."""

from __future__ import annotations

import json

import attrs
import pytest

from planned_nodes import FILE, NodesPlugin, settings
from registrations import changed
from sage_plugins import ServiceDeploymentConfig
from sage_plugins.config.service_config import fields

#: A list that contains itself.
ITSELF = []


ITSELF.append(ITSELF)


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
