"""`ServiceDeploymentConfig`: its fields and defaults, that it is an immutable value, and what follows from others."""

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

from sage_plugins.config.nested_keys import BATCH_FIELDS, METHOD_FIELDS
from sage_plugins.config.service_config import (
    GROUPS,
    DeploymentTarget,
    ServiceDeploymentConfig,
    ThreadingStrategy,
    completed,
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
