"""`ServiceDeploymentConfig`: what it refuses, with which rule and which message."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_plugins.config.cross_rules import cross_problems
from sage_plugins.config.service_config import (
    ServiceDeploymentConfig,
    completed,
    field_problems,
    fields,
    plain,
)
from sage_plugins.errors import ConfigError


def ids(problems):
    return [problem.id for problem in problems]


def whole(**changed):
    return completed(changed)


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
