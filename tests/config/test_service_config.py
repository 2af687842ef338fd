"""`ServiceDeploymentConfig`: what it accepts, what it refuses with which message, and that it is an immutable value."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import subprocess
import sys
from enum import Enum

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_plugins.config.cross_rules import cross_problems
from sage_plugins.config.nested_keys import BATCH_FIELDS, METHOD_FIELDS
from sage_plugins.config.service_config import (
    GROUPS,
    DeploymentTarget,
    ServiceDeploymentConfig,
    ThreadingStrategy,
    completed,
    field_problems,
    fields,
    group_of,
    plain,
)
from sage_plugins.errors import ConfigError

REQUEST_DEFAULTS = {
    "target": "local",
    "target_nodes": None,
    "node_selector": None,
    "threading_strategy": "single",
    "thread_count": 1,
    "max_thread_count": None,
    "thread_pool_size": None,
    "cpu_cores": None,
    "memory_mb": None,
    "gpu_count": None,
    "replicas": 1,
    "load_balancing": False,
    "failover_enabled": False,
    "queue_size": 1000,
    "timeout": 30.0,
    "batch_size": None,
    "enable_metrics": True,
    "health_check_interval": 10.0,
}
ADDED_DEFAULTS = {
    "load_balancer": None,
    "max_concurrency": None,
    "spread": "spread",
    "max_replicas_per_node": None,
    "overload": "block",
    "timeout_strength": "cooperative",
    "queue_timeout": None,
    "batch_wait": 0.01,
    "startup_timeout": 60.0,
    "drain_timeout": 30.0,
    "health_check_timeout": 5.0,
    "failure_threshold": 3,
    "success_threshold": 2,
    "monitors": ("metrics", "health", "events"),
    "autoscale": None,
    "retry": None,
    "hedge": None,
    "circuit_breaker": None,
    "outlier": None,
    "recycle": None,
    "update": None,
    "user_config": None,
    "methods": {},
    "options": {},
}
RICH = {
    "target_nodes": ["a", "b"],
    "node_selector": {"gpu": "a100"},
    "user_config": {"deep": [{"er": [1, 2]}]},
    "methods": {"get": {"timeout": 1, "batch": {"size": 4, "wait": 0.1}}},
    "options": {"ray": {"labels": ["x"]}},
}


def ids(problems):
    return [problem.id for problem in problems]


def whole(**changed):
    return completed(changed)


class TestFields:
    def test_names_and_defaults_are_those_of_the_request_and_the_design(self):
        """The fields and their defaults are those of the feature request and the design."""
        expected = REQUEST_DEFAULTS | ADDED_DEFAULTS
        assert {name: info.default for name, info in fields().items()} == expected
        assert {name: getattr(ServiceDeploymentConfig(), name) for name in fields()} == expected

    @pytest.mark.parametrize("name", list(fields()))
    def test_every_field_says_what_it_takes(self, name):
        """Every field has a one-line doc, a type and, for numbers, a range."""
        info = fields()[name]
        assert info.name == name
        assert info.doc.endswith(".")
        assert "\n" not in info.doc
        assert info.type
        assert group_of(name) in {*GROUPS, None}
        if info.kind in {"integer", "number"}:
            assert info.range

    def test_every_duration_names_its_unit(self):
        """Every duration's doc says that it is in seconds."""
        durations = [info for name, info in fields().items() if name.endswith(("timeout", "_wait", "_interval"))]
        assert len(durations) == 7
        for info in [*durations, METHOD_FIELDS["timeout"], BATCH_FIELDS["wait"]]:
            assert "in seconds" in info.doc

    def test_groups_are_those_of_the_request_and_the_design(self):
        """The fields are grouped as in the feature request and the design."""
        by_group = {}
        for name in fields():
            by_group.setdefault(group_of(name), set()).add(name)
        assert by_group["resources"] == {"cpu_cores", "memory_mb", "gpu_count"}
        assert by_group["monitoring"] == {"enable_metrics", "monitors"}
        assert by_group["health"] == {
            "health_check_interval",
            "health_check_timeout",
            "failure_threshold",
            "success_threshold",
        }
        assert by_group[None] == {
            "autoscale",
            "retry",
            "hedge",
            "circuit_breaker",
            "outlier",
            "recycle",
            "update",
            "user_config",
            "methods",
            "options",
        }
        assert {"replicas", "load_balancing", "failover_enabled", "spread"} <= by_group["deployment"]
        assert {"queue_size", "timeout", "batch_size", "overload", "drain_timeout"} <= by_group["performance"]

    def test_words_for_type_and_range(self):
        """Types and ranges are described in words."""
        assert (fields()["thread_count"].type, fields()["thread_count"].range) == ("integer", "1 to 1024")
        assert (fields()["timeout"].type, fields()["timeout"].range) == ("number or null", "more than 0")
        assert fields()["queue_size"].range == "0 or more"
        assert fields()["overload"].range == "block or reject or shed_oldest or priority"
        assert fields()["target"].range == ""

    def test_group_of_an_unknown_field_is_a_key_error(self):
        with pytest.raises(KeyError):
            group_of("colour")


class TestValue:
    def test_the_requests_own_example_constructs(self):
        """The example of the feature request is a valid configuration."""
        config = ServiceDeploymentConfig(
            target=DeploymentTarget.REMOTE_SPECIFIC,
            target_nodes=["node-gpu-01", "node-gpu-02"],
            threading_strategy=ThreadingStrategy.POOL,
            thread_count=4,
            thread_pool_size=8,
            cpu_cores=2.0,
            memory_mb=4096,
            replicas=2,
            load_balancing=True,
            queue_size=2000,
            timeout=60.0,
        )
        assert config.target_nodes == ("node-gpu-01", "node-gpu-02")
        assert config.thread_pool_size == 8

    def test_enum_members_become_plain_strings(self):
        class Foreign(Enum):
            ANY = "remote_any"

        config = ServiceDeploymentConfig(
            target=Foreign.ANY, threading_strategy=ThreadingStrategy.POOL, monitors=[ThreadingStrategy.ASYNC]
        )
        assert type(config.target) is str
        assert type(config.threading_strategy) is str
        assert type(config.monitors[0]) is str
        assert (config.target, config.threading_strategy, config.monitors) == ("remote_any", "pool", ("async",))

    def test_integers_become_floats_where_floats_are_meant(self):
        """An integer becomes a float where the field is a float."""
        config = ServiceDeploymentConfig(timeout=60, cpu_cores=0, gpu_count=1)
        assert type(config.timeout) is float
        assert type(config.cpu_cores) is float
        assert type(config.gpu_count) is int
        assert ServiceDeploymentConfig(gpu_count=0.5).gpu_count == 0.5

    def test_it_cannot_be_changed_at_any_depth(self):
        """A configuration cannot be changed at any depth."""
        config = ServiceDeploymentConfig(**RICH)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            config.timeout = 1.0
        with pytest.raises(TypeError):
            config.user_config["new"] = 1
        with pytest.raises(TypeError):
            config.user_config["deep"][0]["new"] = 1
        assert config.user_config["deep"][0]["er"] == (1, 2)

    def test_it_does_not_follow_later_changes_of_what_it_was_given(self):
        """Later changes of the arguments do not change the configuration."""
        inner = {"labels": ["x"]}
        config = ServiceDeploymentConfig(options={"ray": inner})
        inner["labels"].append("y")
        inner["new"] = 1
        assert plain(config.options) == {"ray": {"labels": ["x"]}}

    @pytest.mark.parametrize("values", [{}, RICH])
    def test_copies_are_equal_and_still_read_only(self, values):
        """Copies and pickles are equal and read-only."""
        config = ServiceDeploymentConfig(**values)
        for twin in (
            pickle.loads(pickle.dumps(config)),  # noqa: S301 - pickled in the line itself
            copy.deepcopy(config),
            copy.copy(config),
            attrs.evolve(config),
        ):
            assert twin == config
            with pytest.raises(TypeError):
                twin.options["new"] = {}

    def test_evolve_changes_and_checks(self):
        """`attrs.evolve` changes a field and checks the result."""
        config = ServiceDeploymentConfig(**RICH)
        assert attrs.evolve(config, timeout=None).timeout is None
        assert attrs.evolve(config, timeout=5.0) != config
        with pytest.raises(ConfigError):
            attrs.evolve(config, timeout=0)

    def test_it_has_no_hash(self):
        with pytest.raises(TypeError, match="unhashable type: 'ServiceDeploymentConfig'"):
            hash(ServiceDeploymentConfig())

    def test_repr_names_what_differs_from_the_defaults(self):
        """`repr` shows only values that differ from the defaults, and evaluates to an equal configuration."""
        assert repr(ServiceDeploymentConfig()) == "ServiceDeploymentConfig()"
        config = ServiceDeploymentConfig(timeout=5, **RICH)
        assert eval(repr(config)) == config  # noqa: S307 - text made here

    def test_to_dict_is_plain_and_makes_the_same_config_again(self):
        """`to_dict` can be written as JSON and makes an equal configuration again."""
        config = ServiceDeploymentConfig(**RICH)
        values = json.loads(json.dumps(config.to_dict()))
        assert list(values) == list(fields())
        assert ServiceDeploymentConfig(**values) == config

    def test_signature_shows_every_field(self):
        assert list(inspect.signature(ServiceDeploymentConfig).parameters) == list(fields())

    def test_importing_it_loads_nothing_heavy(self):
        """Importing the configuration imports no heavy module."""
        code = (
            "import sys, sage_plugins.config.service_config;"
            "print([m for m in ('yaml', 'asyncio', 'ray', 'difflib') if m in sys.modules])"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "[]"


LOOP = {}
LOOP["again"] = LOOP

WRONG_VALUES = [
    ("target", None, "E102", "must be a string, got null"),
    ("target", 3, "E102", "must be a string, got 3"),
    ("target", "", "E103", "must not be empty"),
    ("target", " local", "E103", "spaces around"),
    ("target_nodes", "node-1", "E102", "must be a list of strings or null, got 'node-1'"),
    ("target_nodes", {"a"}, "E102", "got an object of class set"),
    ("target_nodes", ["a", 1], "E102", "must be a string, got 1"),
    ("node_selector", ["gpu"], "E102", "must be a mapping of strings to strings or null, got a list"),
    ("node_selector", {"gpu": True}, "E102", "must be a string, got true"),
    ("node_selector", {1: "a"}, "E102", "keys must be strings, got 1"),
    ("threading_strategy", b"pool", "E102", "got an object of class bytes"),
    ("thread_count", True, "E102", "must be an integer, got true"),
    ("thread_count", 4.0, "E102", "must be an integer, got 4.0"),
    ("thread_count", "4", "E102", "must be an integer, got '4'"),
    ("thread_count", None, "E102", "must be an integer, got null"),
    ("thread_count", 0, "E103", "must be 1 or more, got 0"),
    ("thread_count", 1025, "E103", "must be 1024 or less, got 1025"),
    ("max_thread_count", 0, "E103", "must be 1 or more, got 0"),
    ("thread_pool_size", -1, "E103", "must be 1 or more, got -1"),
    ("max_concurrency", 0, "E103", "must be 1 or more, got 0"),
    ("replicas", 0, "E103", "must be 1 or more, got 0"),
    ("replicas", 10**5000, "E103", "an integer of 16610 bits"),
    ("load_balancing", "no", "E102", "must be true or false, got 'no'"),
    ("load_balancing", 1, "E102", "must be true or false, got 1"),
    ("load_balancing", None, "E102", "must be true or false, got null"),
    ("load_balancer", 1, "E102", "must be a string or null, got 1"),
    ("failover_enabled", 0, "E102", "must be true or false, got 0"),
    ("spread", "none", "E103", "must be spread or pack, got 'none'"),
    ("max_replicas_per_node", 0, "E103", "must be 1 or more, got 0"),
    ("cpu_cores", -0.5, "E103", "must be 0 or more, got -0.5"),
    ("cpu_cores", "2", "E102", "must be a number or null, got '2'"),
    ("memory_mb", 0, "E103", "must be 1 or more, got 0"),
    ("memory_mb", 4096.0, "E102", "must be an integer or null, got 4096.0"),
    ("gpu_count", -1, "E103", "must be 0 or more, got -1"),
    ("gpu_count", True, "E102", "must be a number or null, got true"),
    ("queue_size", -1, "E103", "must be 0 or more, got -1"),
    ("queue_size", 2**31, "E103", "must be 2147483647 or less"),
    ("overload", "rejct", "E103", "must be block or reject or shed_oldest or priority, got 'rejct'"),
    ("timeout", 0, "E103", "must be more than 0, got 0"),
    ("timeout", -1.5, "E103", "must be more than 0, got -1.5"),
    ("timeout", False, "E102", "must be a number or null, got false"),
    ("timeout", float("nan"), "E102", "must be a finite number, got .nan"),
    ("timeout", float("inf"), "E102", "must be a finite number, got .inf"),
    ("timeout", 1e10, "E103", "must be 1000000000 or less"),
    ("timeout", 10**400, "E103", "must be 1000000000 or less"),
    ("queue_timeout", 0, "E103", "must be more than 0, got 0"),
    ("batch_size", 0, "E103", "must be 1 or more, got 0"),
    ("batch_wait", -0.1, "E103", "must be 0 or more, got -0.1"),
    ("batch_wait", None, "E102", "must be a number, got null"),
    ("startup_timeout", 0, "E103", "must be more than 0, got 0"),
    ("startup_timeout", None, "E102", "must be a number, got null"),
    ("drain_timeout", -1, "E103", "must be 0 or more, got -1"),
    ("health_check_interval", 0, "E103", "must be more than 0, got 0"),
    ("health_check_timeout", 0, "E103", "must be more than 0, got 0"),
    ("failure_threshold", 0, "E103", "must be 1 or more, got 0"),
    ("success_threshold", 1.5, "E102", "must be an integer, got 1.5"),
    ("enable_metrics", "true", "E102", "must be true or false, got 'true'"),
    ("monitors", "metrics", "E102", "must be a list of strings, got 'metrics'"),
    ("monitors", ["metrics", "metrics"], "E103", "names 'metrics' a second time"),
    ("autoscale", 3, "E102", "must be a mapping or null, got 3"),
    ("retry", {1: 2}, "E102", "keys must be strings, got 1"),
    ("update", [1], "E102", "must be a mapping or null, got a list"),
    ("user_config", {"a": [{None: 1}]}, "E102", "keys must be strings, got null"),
    ("user_config", LOOP, "E108", "nested more than 32 levels"),
    ("methods", None, "E102", "must be a mapping of method names to mappings, got null"),
    ("options", {"ray": 1}, "E102", "must be a mapping, got 1"),
    ("options", [], "E102", "must be a mapping of plugin IDs to mappings, got a list"),
]


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "value", "rule", "words"), WRONG_VALUES, ids=[f"{name}-{words}" for name, _, _, words in WRONG_VALUES]
    )
    def test_one_wrong_value_is_one_problem(self, name, value, rule, words):
        """One wrong value gives one problem, at its key and with its message."""
        (problem,) = field_problems(name, value)
        assert problem.id == rule
        assert problem.key.split(".")[0] == name
        assert words in problem.message
        with pytest.raises(ConfigError) as caught:
            ServiceDeploymentConfig(**{name: value})
        assert problem in caught.value.problems

    @pytest.mark.parametrize(
        ("methods", "key", "rule", "words"),
        [
            ({"get": None}, "methods.get", "E102", "must be a mapping, got null"),
            ({"get": {"timout": 1}}, "methods.get.timout", "E101", "unknown key 'timout'"),
            ({"get": {"timeout": 0}}, "methods.get.timeout", "E103", "must be more than 0, got 0"),
            ({"get": {"timeout": "1"}}, "methods.get.timeout", "E102", "must be a number or null"),
            ({"get": {"max_concurrency": 0}}, "methods.get.max_concurrency", "E103", "must be 1 or more"),
            ({"get": {"idempotent": "yes"}}, "methods.get.idempotent", "E102", "must be true or false"),
            ({"get": {"batch": False}}, "methods.get.batch", "E102", "must be true or a mapping of size and wait"),
            ({"get": {"batch": 8}}, "methods.get.batch", "E102", "must be true or a mapping of size and wait"),
            ({"get": {"batch": {"size": 0}}}, "methods.get.batch.size", "E103", "must be 1 or more, got 0"),
            ({"get": {"batch": {"wait": True}}}, "methods.get.batch.wait", "E102", "must be a number, got true"),
            ({"get": {"batch": {"max": 1}}}, "methods.get.batch.max", "E101", "unknown key 'max'"),
            ({"_get": {}}, "methods._get", "E103", "private"),
            ({"get all": {}}, "methods.get all", "E103", "not the name of a method"),
            ({3: {}}, "methods", "E102", "keys must be strings, got 3"),
        ],
    )
    def test_methods_are_checked_key_by_key(self, methods, key, rule, words):
        """`methods` is checked key by key."""
        (problem,) = field_problems("methods", methods)
        assert (problem.id, problem.key) == (rule, key)
        assert words in problem.message

    def test_methods_accept_what_the_design_names(self):
        """`methods` accepts every documented key."""
        methods = {
            "get": {"timeout": None, "max_concurrency": 3, "idempotent": True, "batch": True},
            "put": {"timeout": 2, "batch": {"size": 8, "wait": 0}},
            "scan": {},
        }
        assert field_problems("methods", methods) == []
        assert plain(ServiceDeploymentConfig(methods=methods).methods) == methods

    def test_all_errors_are_in_one_message(self):
        """One ConfigError lists all problems."""
        with pytest.raises(ConfigError) as caught:
            ServiceDeploymentConfig(thread_count=0, batch_size="30")
        assert str(caught.value) == (
            "ServiceDeploymentConfig has 2 problems:\n"
            "  thread_count: must be 1 or more, got 0\n"
            "  batch_size: must be an integer or null, got '30' (write the number without quotes)"
        )
        assert ids(caught.value.problems) == ["E103", "E102"]

    def test_one_problem_is_not_called_problems(self):
        with pytest.raises(ConfigError, match=r"^ServiceDeploymentConfig has 1 problem:\n  replicas: "):
            ServiceDeploymentConfig(replicas=0)

    def test_a_wrong_name_comes_with_the_nearest_one_and_beside_other_errors(self):
        """An unknown name suggests the nearest one, and other errors are reported too."""
        with pytest.raises(ConfigError) as caught:
            ServiceDeploymentConfig(thread_cout=4, replicas=0)
        assert "thread_cout: unknown key 'thread_cout' (did you mean 'thread_count'?)" in str(caught.value)
        assert ids(caught.value.problems) == ["E101", "E103"]

    def test_a_name_like_no_field_comes_without_a_guess(self):
        """An unknown name that resembles no field gets no suggestion."""
        (problem,) = field_problems("zzz", 1)
        assert (problem.id, problem.fix) == ("E101", "remove it, or check the spelling")

    def test_mappings_may_be_as_deep_as_in_a_file(self):
        """Mappings can be nested as deep as in a file: 32 levels."""
        deep = 0
        for _ in range(31):
            deep = [deep]
        assert field_problems("user_config", {"a": deep}) == []
        assert ids(field_problems("user_config", {"a": [deep]})) == ["E108"]

    def test_a_wrong_value_is_not_reported_again_by_rules_between_fields(self):
        """A wrong value is reported once, not again by rules between fields."""
        with pytest.raises(ConfigError) as caught:
            ServiceDeploymentConfig(queue_timeout=50, timeout="x")
        assert ids(caught.value.problems) == ["E102"]

    def test_the_error_pickles_with_its_problems(self):
        with pytest.raises(ConfigError) as caught:
            ServiceDeploymentConfig(replicas=0)
        assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems  # noqa: S301 - pickled in the line itself

    @pytest.mark.parametrize("text", ["x\ny", "\x1b[31m", "a" * 10_000])
    def test_strings_are_shown_on_one_short_line(self, text):
        """A message shows any string on one short line."""
        (problem,) = field_problems("thread_count", text)
        assert problem.message.isprintable()
        assert len(problem.message) < 200

    @given(
        st.sampled_from(list(fields())),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
        ),
    )
    def test_any_value_is_taken_or_refused_with_a_config_error(self, name, value):
        """Any value of any field is either accepted or refused with ConfigError."""
        try:
            config = ServiceDeploymentConfig(**{name: value})
        except ConfigError as error:
            assert error.problems  # noqa: PT017 - most values are refused
        else:
            assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301 - pickled in the line itself
            assert field_problems(name, getattr(config, name)) == []


CROSS = [
    ({"replicas": 2, "load_balancing": False}, "E402", "replicas"),
    ({"replicas": 2, "load_balancing": False, "failover_enabled": True}, None, None),
    ({"replicas": 2}, None, None),
    ({"replicas": 2, "load_balancing": True}, None, None),
    ({"load_balancer": "random"}, None, None),
    ({"replicas": 2, "failover_enabled": True}, None, None),
    ({"load_balancing": True}, "W11", "load_balancing"),
    ({"load_balancing": True, "autoscale": {"max": 3}}, None, None),
    ({"load_balancing": True, "autoscale": {"max": 1}}, "W11", "load_balancing"),
    ({"failover_enabled": True}, "W08", "failover_enabled"),
    ({"replicas": 3, "autoscale": {"min": 1, "max": 3}}, "E404", "replicas"),
    ({"autoscale": {"min": 1, "max": 3}}, None, None),
    ({"autoscale": {"min": 3, "max": 1}}, "E405", "autoscale.max"),
    ({"autoscale": {"min": 0, "max": 1}, "queue_size": 0, "overload": "reject"}, "E406", "queue_size"),
    ({"autoscale": {"min": 0, "max": 1}, "queue_size": 0, "overload": "shed_oldest"}, "E406", "queue_size"),
    ({"autoscale": {"min": 0, "max": 1}, "queue_size": 0}, None, None),
    ({"autoscale": {"min": 0, "max": 1}, "queue_size": 1, "overload": "reject"}, None, None),
    ({"recycle": {}}, "E410", "recycle"),
    ({"autoscale": {"min": 2, "initial": 1, "max": 3}}, "E405", "autoscale.initial"),
    ({"autoscale": {"initial": 5, "max": 3}}, "E405", "autoscale.max"),
    ({"autoscale": {"min": 1, "initial": 1, "max": 1}}, None, None),
    ({"health_check_interval": 2.0, "health_check_timeout": 5.0}, "E603", "health_check_timeout"),
    ({"health_check_timeout": 11.0}, "E603", "health_check_timeout"),
    ({"health_check_interval": 2.0}, None, None),
    ({"health_check_interval": 5.0}, None, None),
    ({"queue_timeout": 31.0}, "E605", "queue_timeout"),
    ({"queue_timeout": 30.0}, None, None),
    ({"queue_timeout": 99.0, "timeout": None, "drain_timeout": 99.0}, "W03", "drain_timeout"),
    ({"batch_wait": 30.0}, "E503", "batch_wait"),
    ({"batch_wait": 29.0}, None, None),
    ({"timeout": 0.01, "batch_size": 8}, "E503", "batch_wait"),
    ({"timeout": 0.01}, None, None),
    ({"methods": {"get": {"timeout": 0.005, "batch": True}}}, "E503", "methods.get.timeout"),
    ({"methods": {"get": {"batch": {"wait": 30}}}}, "E503", "methods.get.batch.wait"),
    ({"methods": {"get": {"timeout": None, "batch": {"wait": 30}}}}, None, None),
    ({"methods": {"get": {"timeout": 0.005}}}, None, None),
    ({"timeout": 0.005, "methods": {"get": {"batch": True}}}, "E503", "timeout"),
    ({"timeout": 60.0}, "W03", "drain_timeout"),
    ({"timeout": None}, "W03", "drain_timeout"),
    ({"timeout": 60.0, "drain_timeout": 60.0}, None, None),
]


class TestCrossRules:
    @pytest.mark.parametrize(("values", "rule", "key"), CROSS)
    def test_each_rule_finds_its_case_and_nothing_else(self, values, rule, key):
        """Each rule between fields finds its own case and no other."""
        found = [(problem.id, problem.key) for problem in cross_problems(whole(**values))]
        assert found == ([(rule, key)] if rule else [])

    @pytest.mark.parametrize(("values", "rule", "key"), CROSS)
    def test_errors_raise_and_warnings_never_do(self, values, rule, key):
        """Errors of rules between fields raise ConfigError; warnings do not."""
        if rule and rule.startswith("E"):
            with pytest.raises(ConfigError) as caught:
                ServiceDeploymentConfig(**values)
            assert [(problem.id, problem.key) for problem in caught.value.problems] == [(rule, key)]
        else:
            ServiceDeploymentConfig(**values)

    def test_the_defaults_are_without_fault(self):
        """The defaults break no rule."""
        assert cross_problems(whole()) == []

    def test_a_rule_that_lacks_a_field_is_left_out(self):
        """A rule whose field is missing is skipped."""
        values = whole(replicas=2, load_balancing=False)
        del values["load_balancing"]
        assert cross_problems(values) == []


#: Values that follow from others, by what was set.
DERIVED_VALUES = [
    ({}, {"load_balancing": False, "health_check_timeout": 5.0}),
    ({"replicas": 2}, {"load_balancing": True}),
    ({"replicas": 2, "failover_enabled": True}, {"load_balancing": True}),
    ({"autoscale": {"max": 2}}, {"load_balancing": True}),
    ({"autoscale": {"max": 1}}, {"load_balancing": False}),
    ({"load_balancer": "random"}, {"load_balancing": True}),
    ({"health_check_interval": 1.0}, {"health_check_timeout": 1.0}),
    ({"health_check_interval": "500ms"}, {"health_check_timeout": 0.5}),
    ({"health_check_interval": 60.0}, {"health_check_timeout": 5.0}),
]


class TestDerived:
    @pytest.mark.parametrize(("values", "derived"), DERIVED_VALUES)
    def test_what_nobody_sets_follows_from_the_rest(self, values, derived):
        """A value that nobody sets follows from the others, and copies still count it as not set."""
        config = ServiceDeploymentConfig(**values)
        assert {name: getattr(config, name) for name in derived} == derived
        assert config == ServiceDeploymentConfig(**values, **derived)
        assert config.derived == {"load_balancing", "health_check_timeout"}
        for twin in (pickle.loads(pickle.dumps(config)), copy.copy(config), attrs.evolve(config)):  # noqa: S301 - as above
            assert twin.derived == config.derived
        assert not any(name in repr(config) for name in derived)

    @pytest.mark.parametrize(("values", "derived"), DERIVED_VALUES)
    def test_evolve_derives_it_once_more(self, values, derived):
        """`attrs.evolve` derives such values again."""
        changed = attrs.evolve(ServiceDeploymentConfig(), **values)
        assert {name: getattr(changed, name) for name in derived} == derived
        assert attrs.evolve(changed, timeout=7.0) == ServiceDeploymentConfig(**values, timeout=7.0)

    def test_what_is_set_stays(self):
        """A value that is set stays, also in copies, even if it equals the derived one."""
        standby = ServiceDeploymentConfig(replicas=2, load_balancing=False, failover_enabled=True)
        assert not attrs.evolve(standby, replicas=3).load_balancing
        single = ServiceDeploymentConfig(load_balancing=False)
        with pytest.raises(ConfigError, match="only the first replica would ever serve"):
            attrs.evolve(single, replicas=2)
        with pytest.raises(ConfigError, match="only the first replica would ever serve"):
            attrs.evolve(ServiceDeploymentConfig(), load_balancing=False, replicas=2)
        checked = ServiceDeploymentConfig(health_check_timeout=5.0)
        with pytest.raises(ConfigError, match="must be at most health_check_interval"):
            attrs.evolve(checked, health_check_interval=1.0)

    @pytest.mark.parametrize(
        ("values", "bad", "missing"),
        [
            ({}, {"replicas"}, {"replicas", "load_balancing"}),
            ({"load_balancing": True}, {"replicas"}, {"replicas"}),
            ({}, {"health_check_interval"}, {"health_check_interval", "health_check_timeout"}),
            ({"replicas": 3}, {"load_balancing"}, {"load_balancing"}),
        ],
    )
    def test_nothing_follows_from_a_wrong_value(self, values, bad, missing):
        """Nothing is derived from a wrong value."""
        assert set(fields()) - set(completed(values, bad)) == missing


class TestUnits:
    """In Python, durations and sizes are written as in a file."""

    @pytest.mark.parametrize(
        ("name", "text", "value"),
        [
            ("timeout", "5s", 5.0),
            ("timeout", "1h30m", 5400.0),
            ("batch_wait", "250ms", 0.25),
            ("memory_mb", "2Gi", 2048),
            ("update", {"progress_deadline": "2m", "max_surge": 2}, {"progress_deadline": 120.0, "max_surge": 2}),
            ("methods", {"get": {"timeout": "10ms"}}, {"get": {"timeout": 0.01}}),
        ],
    )
    def test_a_text_with_a_unit_becomes_a_number(self, name, text, value):
        """A text with a unit becomes a number."""
        config = ServiceDeploymentConfig(**{name: text})
        assert plain(getattr(config, name)) == value
        assert type(plain(getattr(config, name))) is type(value)

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("timeout", "5 s", "must be a number, a duration or null, got '5 s'"),
            ("memory_mb", "2GB", "GB means powers of 1000"),
            ("memory_mb", "1Ki", "must be a whole number of MiB"),
            ("timeout", "0s", "must be more than 0, got 0.0"),
            ("replicas", "2s", "must be an integer, got '2s'"),
        ],
    )
    def test_any_other_text_is_refused(self, name, text, message):
        """A text without a valid unit is refused with one problem."""
        with pytest.raises(ConfigError) as caught:
            ServiceDeploymentConfig(**{name: text})
        assert message in str(caught.value)
        assert len(caught.value.problems) == 1
