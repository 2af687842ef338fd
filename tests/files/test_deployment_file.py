"""What a deployment file may contain, and how its defaults and profiles are merged."""

from __future__ import annotations

import subprocess
import sys

import pytest

from file_cases import REQUEST, service
from sage_deploy_files.reading.entries import file_problem
from sage_deploy_files.reading.reader import Position
from sage_plugins.config.service_config import ServiceDeploymentConfig, field_problems, fields, plain
from sage_plugins.values import Problem


class TestGoodFiles:
    def test_the_requests_own_file_loads_unchanged(self, load):
        """The deployment file of the original request loads unchanged."""
        file = load(REQUEST)
        assert list(file.services) == ["kv_service", "llm_service", "memory_service"]
        assert file.services["kv_service"].config() == ServiceDeploymentConfig(
            target="remote_specific",
            target_nodes=["node-storage-01", "node-storage-02"],
            threading_strategy="multi",
            thread_count=4,
            replicas=2,
            load_balancing=True,
            cpu_cores=2.0,
            memory_mb=4096,
            queue_size=2000,
            timeout=60.0,
            batch_size=10,
        )
        assert file.services["llm_service"].config().gpu_count == 1
        assert {problem.id for problem in file.problems} == {"W03"}

    def test_groups_and_flat_fields_mix(self, load):
        """Fields may be in their group or at the top of a service, mixed freely."""
        flat = load(service("thread_count: 4\nresources: {cpu_cores: 1}\ntimeout: 5")).services["kv"]
        nested = load(service("deployment: {thread_count: 4}\ncpu_cores: 1\nperformance: {timeout: 5}")).services["kv"]
        assert flat.values == nested.values == {"thread_count": 4, "cpu_cores": 1, "timeout": 5}

    def test_only_what_the_file_sets_is_in_values(self, load):
        assert load("services: {kv: {}}").services["kv"].values == {}

    def test_a_service_without_contents_has_all_the_defaults(self, load):
        assert load("services:\n  kv:\n").services["kv"].config() == ServiceDeploymentConfig()

    def test_every_field_can_be_written_in_its_group_and_flat(self, load):
        for name, info in fields().items():
            value = {"integer": 2, "number": 2.5, "boolean": True, "string": "pack", "strings": ["a"]}.get(
                info.kind, {}
            )
            if info.choices:
                value = info.choices[1]
            if info.name in {"replicas", "batch_wait", "health_check_timeout", "queue_timeout"}:
                value = 1
            if info.name == "health_check_interval":
                value = 7
            if info.name == "recycle":
                value = {"max_calls": 2}
            text = repr(value).replace("True", "true")
            nested = f"{info.group}: {{{name}: {text}}}" if info.group else f"{name}: {text}"
            for body in (nested, f"{name}: {text}"):
                assert load(service(body)).services["kv"].values == {name: value}

    def test_durations_and_sizes_may_have_units(self, load):
        """Durations and sizes may have units, also in `methods`."""
        entry = load(
            service("timeout: 250ms\nmemory_mb: 4Gi\nmethods: {get: {timeout: 2m, batch: {wait: 5ms}}}")
        ).services
        assert plain(entry["kv"].values) == {
            "timeout": 0.25,
            "memory_mb": 4096,
            "methods": {"get": {"timeout": 120.0, "batch": {"wait": 0.005}}},
        }

    def test_class_and_init(self, load):
        """`class` and `init` give the path of the class and the constructor's arguments."""
        entry = load(service("class: my.pkg:Outer.KV\ninit: {args: [1, x], kwargs: {backend: memory}}")).services["kv"]
        assert entry.class_path == "my.pkg:Outer.KV"
        assert entry.args == (1, "x")
        assert entry.kwargs == {"backend": "memory"}

    def test_without_class_and_init_there_are_none(self, load):
        entry = load("services: {kv: {}}").services["kv"]
        assert (entry.class_path, entry.args, dict(entry.kwargs)) == (None, (), {})

    def test_options_of_the_environment_are_kept_with_their_places(self, load):
        """Options of the environment keep their places, so that problems with them have line and column."""
        file = load("version: 1\noptions:\n  ray:\n    address: auto\nservices: {}\n")
        assert plain(file.options) == {"ray": {"address": "auto"}}
        assert file.place("options.ray.address").value == Position(4, 14)
        placed = file_problem(file, Problem("E101", "options.ray.address", "unknown"))
        assert (placed.line, placed.column) == (4, 5)

    def test_places_of_values_and_keys(self, load):
        entry = load(service("class: a:B\nresources:\n  cpu_cores: 2\noptions: {rr: {weights: [1, 2]}}")).services["kv"]
        assert entry.at == Position(2, 3)
        assert entry.place("class").value == Position(3, 12)
        assert entry.place("cpu_cores").value == Position(5, 18)
        assert entry.place("cpu_cores").key == Position(5, 7)
        assert entry.place("options.rr.weights.1").value == Position(6, 33)

    def test_a_byte_order_mark_and_other_line_ends_are_no_matter(self, load):
        """A byte order mark and CRLF line ends are accepted."""
        assert load(b"\xef\xbb\xbfservices:\r\n  kv:\r\n    replicas: 1\r\n").services["kv"].values == {"replicas": 1}

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("no", "no"),
            ("on", "on"),
            ("1:30", "1:30"),
            ("1_000", "1_000"),
            ("2001-01-01", "2001-01-01"),
            ("017", 17),
            ("0o17", 15),
            ("0x1F", 31),
            ("+3", 3),
            ("1e3", 1000.0),
            ("-.5", -0.5),
            ("1.", 1.0),
            ("True", True),
            ("FALSE", False),
            ("~", None),
            ("null", None),
            ("", None),
            ("'3'", "3"),
            ('"true"', "true"),
            (".inf", float("inf")),
            ("-.INF", float("-inf")),
            ("=", "="),
            ("0b11", "0b11"),
        ],
    )
    def test_scalars_mean_what_yaml_1_2_says(self, load, text, value):
        """Scalars have the values that YAML 1.2 defines; 1.1 forms such as `no` stay text."""
        found = load(service(f"user_config: {{x: {text} }}")).services["kv"].values["user_config"]["x"]
        assert found == value
        assert type(found) is type(value)

    def test_anchors_merge_keys_and_variables_of_the_environment_stand_for_values(self, load, monkeypatch):
        """Anchors, merge keys and variables give their values; a merged value keeps its original place."""
        monkeypatch.setenv("SAGE_TEST_THREADS", "4")
        body = "deployment: &pool {threading_strategy: pool}\nthread_pool_size: ${SAGE_TEST_THREADS}"
        file = load(service(body) + "  two:\n    deployment:\n      <<: *pool\n      thread_count: 2\n")
        assert file.services["kv"].values == {"threading_strategy": "pool", "thread_pool_size": 4}
        assert file.services["two"].values == {"threading_strategy": "pool", "thread_count": 2}
        assert file.services["two"].place("threading_strategy").value == Position(3, 44)

    def test_warnings_do_not_stop_the_reading(self, load):
        """A file with warnings only is read."""
        file = load(service("load_balancing: true"))
        (warning,) = file.problems
        assert str(warning) == (
            f"{file.path}:3:21: warning W11: services.kv.load_balancing: "
            "has nothing to balance with one replica [replicas has its default] (set replicas to 2 or more)"
        )


class TestLayers:
    FILE = """\
defaults: {thread_count: 2, timeout: 5, queue_size: 7}
profiles:
  dev:
    defaults: {timeout: 6, queue_size: 8}
    services:
      kv: {queue_size: 9, thread_count: 3, class: dev:Fake}
  prod: {}
services:
  kv: {thread_count: 4, replicas: 1}
  vdb: {class: real:VDB}
"""

    @pytest.mark.parametrize(
        ("profile", "kv", "vdb"),
        [
            (None, (4, 5, 7), (2, 5, 7)),
            ("prod", (4, 5, 7), (2, 5, 7)),
            ("dev", (3, 6, 9), (2, 6, 8)),
        ],
    )
    def test_the_profile_beats_the_entry_and_the_entry_all_defaults(self, load, profile, kv, vdb):
        """
        A profile's entry overrides the file's entry, which overrides the profile's defaults, then the file's defaults.
        """
        services = load(self.FILE, profile=profile).services
        for name, expected in (("kv", kv), ("vdb", vdb)):
            values = services[name].values
            assert (values["thread_count"], values["timeout"], values["queue_size"]) == expected
        assert services["kv"].class_path == ("dev:Fake" if profile == "dev" else None)
        assert services["vdb"].class_path == "real:VDB"

    def test_places_are_those_of_the_layer_that_won(self, load):
        """The place of a value is in the layer that set it."""
        entry = load(self.FILE, profile="dev").services["kv"]
        assert entry.place("thread_count").value.line == 6
        assert entry.place("replicas").value.line == 9
        assert entry.place("timeout").value.line == 4
        assert entry.place("queue_size").value.line == 6
        assert entry.place("class").value.line == 6

    def test_mappings_are_merged_key_by_key_and_everything_else_is_taken_as_a_whole(self, load):
        """Mappings are merged key by key; lists and null replace the value as a whole."""
        entry = load(
            """\
defaults:
  options: {pool: {idle_timeout: 5, other: 1}, events: {size: 9}}
  monitors: [metrics, events]
  retry: {min: 1}
services:
  kv:
    options: {pool: {idle_timeout: 7}}
    monitors: [health]
    retry: null
"""
        ).services["kv"]
        assert plain(entry.values) == {
            "options": {"pool": {"idle_timeout": 7, "other": 1}, "events": {"size": 9}},
            "monitors": ["health"],
            "retry": None,
        }
        assert entry.place("options.pool.idle_timeout").value.line == 7
        assert entry.place("options.pool.other").value.line == 2
        assert entry.place("monitors.1") is None
        assert entry.place("retry.min") is None

    def test_each_value_knows_who_set_it(self, load):
        """Each value knows the layer and line that set it."""
        file = load(self.FILE, profile="dev")
        entry = file.services["kv"]
        assert {name: str(entry.origin(name)).removeprefix(file.path) for name in ("timeout", "queue_size")} == {
            "timeout": ":4, profile dev, defaults",
            "queue_size": ":6, profile dev",
        }
        assert str(entry.origin("max_concurrency")) == "default"
        assert entry.origin("replicas")[:4] == ("file", file.path, 9, 35)

    def test_defaults_that_all_services_would_copy_are_bounded(self, refused):
        """
        Thousands of services that each add a key to thousands of defaults are refused at once, not merged for minutes.
        """
        defaults = ", ".join(f"k{number}: 1" for number in range(5_000))
        services = "".join(f"  s{number}: {{user_config: {{a: 1}}}}\n" for number in range(3_000))
        found, error = refused(f"defaults: {{user_config: {{{defaults}}}}}\nservices:\n{services}")
        assert [place.partition(" ")[2] for place in found] == ["E108"]
        assert "say less in defaults" in str(error)

    def test_defaults_that_services_share_are_not_copied(self, load):
        """Services that do not change the defaults share them instead of copying."""
        defaults = ", ".join(f"k{number}: 1" for number in range(5_000))
        services = "".join(f"  s{number}:\n" for number in range(3_000))
        file = load(f"defaults: {{user_config: {{{defaults}}}}}\nservices:\n{services}")
        assert len({id(entry.values["user_config"]) for entry in file.services.values()}) == 1

    def test_an_unknown_profile_is_refused_with_the_nearest(self, refused):
        found, error = refused(self.FILE, profile="prdo")
        assert found == ["3:3 E101"]
        assert "there is no profile 'prdo' (did you mean 'prod'?)" in str(error)
        found, error = refused("services: {}", profile="prod")
        assert found == ["1:1 E101"]
        assert "profiles of the file: none" in str(error)

    def test_profiles_that_are_not_asked_for_are_checked_too(self, refused):
        """Profiles that are not selected are checked too."""
        assert refused("profiles: {dev: {services: {kv: {replicas: 0}}}}\nservices: {kv: {}}")[0] == ["1:44 E103"]

    def test_rules_between_fields_see_the_merged_values(self, load, refused):
        """Rules between fields apply to the merged values."""
        text = "defaults: {replicas: 2, load_balancing: false}\nservices:\n  kv: {}\n"
        assert refused(text)[0] == ["1:22 E402"]
        assert load(text.replace("{}", "{load_balancing: true}")).services["kv"].values["replicas"] == 2
        assert refused("defaults: {load_balancing: x}\nservices: {kv: {replicas: 2}}")[0] == ["1:28 E102"]


def test_the_module_loads_no_yaml_before_it_reads():
    """The reader's module does not import yaml before it reads a file."""
    code = "import sys, sage_deploy_files.reading.reader; print('yaml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_reading_runs_no_constructor_of_yaml(load, monkeypatch):
    """Reading runs no constructor of PyYAML, so that a file cannot create objects."""
    import yaml

    def never(*_args, **_kwargs):
        message = "constructed"
        raise AssertionError(message)

    monkeypatch.setattr(yaml.constructor.BaseConstructor, "get_data", never)
    monkeypatch.setattr(yaml.constructor.BaseConstructor, "construct_document", never)
    assert load(REQUEST).services


def test_values_of_a_file_that_is_read_are_valid_one_by_one(load):
    """Every value of a file that was read is valid on its own."""
    for entry in load(REQUEST).services.values():
        for name, value in entry.values.items():
            assert field_problems(name, value) == []
