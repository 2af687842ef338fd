"""What a deployment file may contain. Everything else is refused with its line and column."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from sage_deploy_files.reading.entries import file_problem
from sage_deploy_files.reading.nodes import MAX_BYTES, MAX_DEPTH, MAX_NODES, MAX_SCALAR
from sage_deploy_files.reading.reader import FileProblem, Position, read
from sage_plugins.config.service_config import ServiceDeploymentConfig, field_problems, fields, plain
from sage_plugins.errors import ConfigError
from sage_plugins.values import Problem

REQUEST = """\
# service_deployment.yaml
services:
  kv_service:
    deployment:
      target: remote_specific
      target_nodes: ["node-storage-01", "node-storage-02"]
      threading_strategy: multi
      thread_count: 4
      replicas: 2
      load_balancing: true
    resources:
      cpu_cores: 2.0
      memory_mb: 4096
    performance:
      queue_size: 2000
      timeout: 60.0
      batch_size: 10

  llm_service:
    deployment:
      target: remote_any
      threading_strategy: pool
      thread_pool_size: 8
      replicas: 1
    resources:
      cpu_cores: 8.0
      memory_mb: 16384
      gpu_count: 1
    performance:
      queue_size: 100
      timeout: 120.0

  memory_service:
    deployment:
      target: local
      threading_strategy: async
      thread_count: 6
    resources:
      cpu_cores: 4.0
      memory_mb: 8192
"""


@pytest.fixture
def load(tmp_path):
    """Return a function that writes a file and reads it."""

    def load(text, **options):
        path = tmp_path / "services.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read(path, **options)

    return load


@pytest.fixture
def refused(load):
    """Return a function that writes a bad file; it returns the places and rules of the problems, and the error."""

    def refused(text, **options):
        with pytest.raises(ConfigError) as caught:
            load(text, **options)
        return [f"{problem.line}:{problem.column} {problem.id}" for problem in caught.value.problems], caught.value

    return refused


def service(body):
    """Return a file with one service; the body's first line is line 3, and its columns count from 5."""
    return "services:\n  kv:\n" + "".join(f"    {line}\n" for line in body.split("\n"))


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


BAD_BODIES = [
    # Unknown keys and wrong groups.
    ("thread_cout: 4", ["3:5 E101"]),
    ("deployment:\n  thread_cout: 4", ["4:7 E101"]),
    ("deploymnt: {}", ["3:5 E101"]),
    ("performance: {thread_count: 4}", ["3:19 E101"]),
    ("resources: {timeout: 4}", ["3:17 E101"]),
    ("deployment: {methods: {}}", ["3:18 E101"]),
    ("deployment: {class: a:B}", ["3:18 E101"]),
    ("health: {health_chek_interval: 3}", ["3:14 E101"]),
    ("'a\\nb': 1", ["3:5 E101"]),
    ("init: {arguments: []}", ["3:12 E101"]),
    ("methods: {get: {timout: 1}}", ["3:21 E101"]),
    ("methods:\n  get:\n    batch: {sise: 1}", ["5:17 E101"]),
    # Wrong types.
    ("deployment: 3", ["3:17 E102"]),
    ("resources:", ["3:15 E102"]),
    ("resources: []", ["3:16 E102"]),
    ("thread_count: '4'", ["3:19 E102"]),
    ("thread_count: 4.0", ["3:19 E102"]),
    ("thread_count: true", ["3:19 E102"]),
    ("thread_count: 1e3", ["3:19 E102"]),
    ("thread_count:", ["3:18 E102"]),
    ("thread_count: [4]", ["3:19 E102"]),
    ("thread_count: {a: 4}", ["3:19 E102"]),
    ("load_balancing: no", ["3:21 E102"]),
    ("load_balancing: 'true'", ["3:21 E102"]),
    ("timeout: 1:30", ["3:14 E102"]),
    ("timeout: .nan", ["3:14 E102"]),
    ("timeout: .inf", ["3:14 E102"]),
    ("timeout: 1e999", ["3:14 E102"]),
    ("timeout: 30 s", ["3:14 E102"]),
    ("memory_mb: 4GB", ["3:16 E102"]),
    ("memory_mb: 100Ki", ["3:16 E103"]),
    ("timeout: 0ms", ["3:14 E103"]),
    ("methods: {get: {timeout: 5x, batch: {wait: -1s}, max_concurrency: 0}}", ["3:30 E102", "3:48 E102", "3:71 E103"]),
    ("target: 017", ["3:13 E102"]),
    ("target: {}", ["3:13 E102"]),
    ("target_nodes: node-1", ["3:19 E102"]),
    ("target_nodes: [a, 2, b, 4]", ["3:23 E102", "3:29 E102"]),
    ("target_nodes:\n- a\n- null", ["5:7 E102"]),
    ("node_selector: {gpu: true}", ["3:26 E102"]),
    ("node_selector: {1: a}", ["3:21 E102"]),
    ("monitors: metrics", ["3:15 E102"]),
    ("methods: [get]", ["3:14 E102"]),
    ("methods: {get: true}", ["3:20 E102"]),
    ("methods: {get: {batch: false}}", ["3:28 E102"]),
    ("options: {ray: 3}", ["3:20 E102"]),
    ("options: null", ["3:14 E102"]),
    ("autoscale: 3", ["3:16 E102"]),
    ("user_config: [1]", ["3:18 E102"]),
    ("class: 3", ["3:12 E102"]),
    ("class:", ["3:11 E102"]),
    ("init: [1]", ["3:11 E102"]),
    ("init: {args: {a: 1}}", ["3:18 E102"]),
    ("init: {args: 'abc'}", ["3:18 E102"]),
    ("init: {kwargs: [1]}", ["3:20 E102"]),
    # Out of range.
    ("replicas: 0", ["3:15 E103"]),
    ("deployment:\n  replicas: -1", ["4:17 E103"]),
    ("queue_size: -1", ["3:17 E103"]),
    ("queue_size: 99999999999", ["3:17 E103"]),
    ("queue_size: " + "9" * 400, ["3:17 E103"]),
    ("queue_size: " + "9" * 5000, ["3:17 E103"]),
    ("queue_size: 0x" + "f" * 400, ["3:17 E103"]),
    ("timeout: 0", ["3:14 E103"]),
    ("timeout: -0.0", ["3:14 E103"]),
    ("cpu_cores: -1", ["3:16 E103"]),
    ("overload: rejct", ["3:15 E103"]),
    ("timeout_strength: hard", ["3:23 E103"]),
    ("spread: none", ["3:13 E103"]),
    ("target: ''", ["3:13 E103"]),
    ("monitors: [metrics, events, metrics]", ["3:33 E103"]),
    ("methods: {_get: {}}", ["3:15 E103"]),
    ("methods: {get: {batch: {size: 0}}}", ["3:35 E103"]),
    ("class: my.module.Class", ["3:12 E103"]),
    ("class: 'my module:Class'", ["3:12 E103"]),
    ("class: 'm:'", ["3:12 E103"]),
    ("class: '../m:C'", ["3:12 E103"]),
    # Twice.
    ("timeout: 1\ntimeout: 2", ["4:5 E104"]),
    ("timeout: 1\nperformance:\n  timeout: 2", ["5:7 E104"]),
    ("performance: {timeout: 1}\ntimeout: 1", ["4:5 E104"]),
    ("performance: {timeout: 1}\nperformance: {queue_size: 1}", ["4:5 E104"]),
    ("methods: {get: {}, put: {}, get: {}}", ["3:33 E104"]),
    ("user_config: {a: {b: 1, 'b': 2}}", ["3:29 E104"]),
    # Between fields.
    ("replicas: 2\nload_balancing: false", ["3:15 E402"]),
    ("replicas: 2\nautoscale: {min: 1}", ["3:15 E404"]),
    ("autoscale:\n  min: 3\n  max: 1", ["5:12 E405"]),
    ("overload: reject\nqueue_size: 0\nautoscale:\n  min: 0", ["4:19 E406"]),
    ("health: {health_check_interval: 1, health_check_timeout: 2}", ["3:62 E603"]),
    ("health_check_timeout: 11", ["3:27 E603"]),
    ("queue_timeout: 31", ["3:20 E605"]),
    ("batch_wait: 30", ["3:17 E503"]),
    ("methods:\n  get:\n    batch: {wait: 30}", ["5:23 E503"]),
    ("replicas: 2\nload_balancing: 'true'", ["4:21 E102"]),
    # Tags, aliases, merge keys, variables, keys that are no strings.
    ("target: !!str local", ["3:13 E106"]),
    ("user_config: !!python/object/apply:os.system ['true']", ["3:18 E106"]),
    ("user_config: {a: !local x}", ["3:22 E106"]),
    ("target: ! local", ["3:13 E106"]),
    ("user_config: &c {a: *c}", ["3:25 E111"]),
    ("<<: 3", ["3:9 E111"]),
    ("target: ${}", ["3:13 E105"]),
    ("user_config: {1: a, true: b, null: c, 1.5: d}", ["3:19 E102", "3:25 E102", "3:34 E102", "3:43 E102"]),
    ("user_config: {[a]: b}", ["3:19 E102"]),
    ("? {a: b}\n: c", ["3:7 E102"]),
    # Not YAML.
    ("timeout: 1\n  replicas: 2", ["4:15 E110"]),
    ("timeout: [1, 2", ["3:14 E110"]),
    ("\ttimeout: 1", ["3:5 E110"]),
    ("target: @local", ["3:13 E110"]),
    ("target: 'local", ["3:13 E110"]),
    ('target: "\\ud800"', ["3:13 E110"]),
    ('target: "\\UFFFFFFFF"', ["3:16 E110"]),
    ("target: a: b", ["3:14 E110"]),
    ("target: a\x07b", ["3:14 E110"]),
    # Several at once, each at its place, in the order of the file.
    (
        "thread_cout: 1\nreplicas: 0\ntimeout: x\nperformance: {timeout: 1}",
        ["3:5 E101", "4:15 E103", "5:14 E102", "6:19 E104"],
    ),
    ("load_balancing: true\nreplicas: 1\nqueue_timeout: 99", ["5:20 E605", "3:21 W11"]),
]

BAD_FILES = [
    (b"", ["1:1 E110"]),
    (b"# only a comment\n", ["1:1 E110"]),
    (b"---\n", ["2:1 E102"]),
    (b"null", ["1:1 E102"]),
    (b"text", ["1:1 E102"]),
    (b"- services", ["1:1 E102"]),
    (b"{}", ["1:1 E107"]),
    (b"version: 1", ["1:1 E107"]),
    (b"services: {}\n---\nservices: {}\n", ["2:1 E110"]),
    (b"%YAML 1.1\n---\nservices: {}\n", ["1:1 E110"]),
    (b"service: {}\nservices: {}", ["1:1 E101"]),
    (b"version: 2\nservices: {}", ["1:10 E103"]),
    (b"version: true\nservices: {}", ["1:10 E102"]),
    (b"version: 1.0\nservices: {}", ["1:10 E102"]),
    (b"services:", ["1:10 E102"]),
    (b"services: [kv]", ["1:11 E102"]),
    (b"services: {kv: 3}", ["1:16 E102"]),
    (b"services: {kv: []}", ["1:16 E102"]),
    (b"services: {1kv: {}}", ["1:12 E103"]),
    (b"services: {'': {}}", ["1:12 E103"]),
    (b"services: {kv.a: {}}", ["1:12 E103"]),
    (b"services: {../kv: {}}", ["1:12 E103"]),
    (b"services: {'kv\\n': {}}", ["1:12 E103"]),
    (b'services: {"kv\\n": {}}', ["1:12 E103"]),
    (b"services: {" + b"a" * 64 + b": {}}", ["1:12 E103"]),
    (b"services: {kv: {}, kv: {}}", ["1:20 E104"]),
    (b"services: {kv: {}}\nservices: {}", ["2:1 E104"]),
    (b"services: {on: {}, true: {}}", ["1:20 E102"]),
    (b"services: !x {}", ["1:11 E106"]),
    (b"services: {}\noptions: 3", ["2:10 E102"]),
    (b"services: {}\noptions: {ray: auto}", ["2:16 E102"]),
    (b"services: {}\ndefaults: 3", ["2:11 E102"]),
    (b"services: {}\ndefaults: {class: a:B}", ["2:12 E101"]),
    (b"services: {}\ndefaults: {replicas: 0}", ["2:22 E103"]),
    (b"services: {}\nprofiles: []", ["2:11 E102"]),
    (b"services: {}\nprofiles: {dev: 1}", ["2:17 E102"]),
    (b"services: {}\nprofiles: {'a b': {}}", ["2:12 E103"]),
    (b"services: {}\nprofiles: {dev: {servces: {}}}", ["2:18 E101"]),
    (b"services: {kv: {}}\nprofiles: {dev: {services: {vk: {}}}}", ["2:29 E101"]),
    (b"services: {kv: {}}\nprofiles: {dev: {services: {kv: 1}}}", ["2:33 E102"]),
    (b"services: {kv: {}}\nprofiles: {dev: {services: 1}}", ["2:28 E102"]),
    (b"services: {}\n\xff", ["2:1 E110"]),
    ("# é\nservices: {é".encode() + b"\xe9: {}}", ["2:13 E110"]),
    (b"\xff\xfes\x00", ["1:1 E110"]),
    (b"services: {}\x00", ["1:13 E110"]),
    (b"\xef\xbb\xbfservices: {}\n\xc3", ["2:1 E110"]),
    (b"services:\n\tkv: {}", ["2:1 E110"]),
    (b"services: {kv: {user_config: " + b"[" * 30 + b"]" * 30 + b"}}", ["1:59 E108"]),
    (b"[" * 100_000, ["1:33 E108"]),
    (b"- " * 100_000, ["1:65 E108"]),
    (b"a: " + b"x" * (MAX_SCALAR + 1), ["1:4 E108"]),
    (b"[" + b"1," * MAX_NODES + b"]", [f"1:{2 * MAX_NODES} E108"]),
    (b"#" * (MAX_BYTES + 1), ["1:1 E108"]),
]


class TestBadFiles:
    @pytest.mark.parametrize(("body", "expected"), BAD_BODIES, ids=[repr(body)[:60] for body, _ in BAD_BODIES])
    def test_each_mistake_in_a_service_is_found_at_its_place(self, refused, body, expected):
        """Each mistake in a service is reported with its place and rule."""
        found, _ = refused(service(body))
        assert found == expected

    @pytest.mark.parametrize(("text", "expected"), BAD_FILES, ids=[repr(text[:40]) for text, _ in BAD_FILES])
    def test_each_mistake_in_the_file_is_found_at_its_place(self, refused, text, expected):
        """Each mistake in the file is reported with its place and rule."""
        found, _ = refused(text)
        assert found == expected

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("thread_cout: 4", "3:5: error E101: services.kv.thread_cout: unknown key 'thread_cout' (did you mean"),
            (
                "performance: {replicas: 4}",
                "performance.replicas: belongs to deployment, not to performance (move it to dep",
            ),
            ("deployment: {methods: {}}", "belongs to the service's own level, not to deployment"),
            ("resources: {cpu_core: 1}", "unknown key 'cpu_core' (did you mean 'cpu_cores'?)"),
            ("resources: {queue_siz: 1}", "(did you mean 'queue_size', which belongs to performance?)"),
            ("resources: {zzz: 1}", "unknown key 'zzz' (keys: cpu_cores, memory_mb, gpu_count)"),
            (
                "zzz: 1",
                "unknown key 'zzz' (keys: class, init, deployment, resources, performance, health, monitoring, and all",
            ),
            ("replicas: 0", "error E103: services.kv.replicas: must be 1 or more, got 0"),
            ("thread_count: '4'", "must be an integer, got '4' (write the number without quotes)"),
            ("load_balancing: no", "must be true or false, got 'no' (write false)"),
            ("timeout: 1\nperformance: {timeout: 2}", "is set a second time, first on line 3"),
            ("timeout: 1\ntimeout: 2", "duplicate key 'timeout', first on line 3"),
            ("a: !!python/object:os.system x", "tag '!!python/object:os.system': tags are not supported (remove it)"),
            ("resources:", "must be a mapping, got null (remove the key if there is nothing to say)"),
            ("class: my.module.Class", "'my.module.Class' is not the path of a class (write package.module:Class)"),
        ],
    )
    def test_the_message_says_what_and_what_to_do(self, refused, body, words):
        """A message says what is wrong and what to do."""
        _, error = refused(service(body))
        assert words in str(error)

    def test_the_message_has_a_line_for_each_problem(self, refused, tmp_path):
        _, error = refused(service("replicas: 0\ntimeout: 0"))
        path = tmp_path / "services.yaml"
        assert str(error) == (
            f"{path} has 2 problems:\n"
            f"  {path}:3:15: error E103: services.kv.replicas: must be 1 or more, got 0\n"
            f"  {path}:4:14: error E103: services.kv.timeout: must be more than 0, got 0 (null means no limit)"
        )
        assert all(isinstance(problem, FileProblem) for problem in error.problems)
        assert error.problems[0].problem == Problem("E103", "replicas", "must be 1 or more, got 0")

    def test_twenty_problems_are_listed_and_the_rest_is_counted(self, refused):
        """The message lists twenty problems, and counts the rest."""
        found, error = refused(service("\n".join(f"unknown_{index}: 1" for index in range(33))))
        assert len(found) == 33
        lines = str(error).splitlines()
        assert len(lines) == 22
        assert lines[-1] == "  and 13 more"

    def test_what_the_file_says_cannot_break_the_line(self, refused):
        """Control characters in a file are escaped in the message, so that they cannot break its lines."""
        _, error = refused(service('"a\\n\\e[31m\\u2028": 1\ntarget: "x\\ny "'))
        assert len(str(error).splitlines()) == 3
        assert "\x1b" not in str(error)

    def test_thousands_of_mistakes_are_reported_in_good_time(self, refused):
        """Thousands of mistakes are all reported in time."""
        found, _ = refused(service("\n".join(f"thread_coun{index}: 1" for index in range(8000))))
        assert len(found) == 8000

    def test_depth_is_allowed_up_to_the_limit(self, load):
        # The root, services, kv and user_config are four levels.
        inner = MAX_DEPTH - 4
        load("services: {kv: {user_config: {a: " + "[" * inner + "]" * inner + "}}}")


class TestFilesThatCannotBeRead:
    """A file that cannot be read is refused with E109 and the reason."""

    def check(self, path, words):
        with pytest.raises(ConfigError) as caught:
            read(path)
        (problem,) = caught.value.problems
        assert (problem.id, problem.line, problem.column) == ("E109", 1, 1)
        assert words in problem.message

    def test_missing(self, tmp_path):
        self.check(tmp_path / "none.yaml", "there is no such file")

    def test_directory(self, tmp_path):
        self.check(tmp_path, "is a directory")

    def test_fifo(self, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        self.check(tmp_path / "fifo", "is not a regular file")

    def test_device(self):
        self.check("/dev/null", "is not a regular file")

    def test_symlink_loop(self, tmp_path):
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        self.check(tmp_path / "loop", "cannot be read: ")

    def test_name_with_a_nul(self):
        self.check("a\x00b", "is not the name of a file")

    def test_file_as_directory(self, tmp_path):
        (tmp_path / "file").write_text("services: {}")
        self.check(tmp_path / "file" / "x", "cannot be read: ")

    def test_no_descriptor_is_left_open(self, tmp_path):
        before = len(list(Path("/proc/self/fd").iterdir()))
        for path in (tmp_path, tmp_path / "none"):
            for _ in range(20):
                self.check(path, "")
        assert len(list(Path("/proc/self/fd").iterdir())) == before


class TestFileProblem:
    BODY = "deployment:\n  thread_count: 4\noptions: {round_robin: {weight: 3}}\nclass: a:B"

    @pytest.mark.parametrize(
        ("rule", "key", "line", "column"),
        [
            ("E301", "thread_count", 4, 21),
            ("E101", "thread_count", 4, 7),
            ("E103", "options.round_robin.weight", 5, 37),
            ("E101", "options.round_robin.weight", 5, 29),
            ("E107", "options.round_robin.other", 5, 15),
            ("E102", "options.round_robin.weight.0", 5, 37),
            ("E301", "thread_pool_size", 2, 3),
            ("E703", "class", 6, 12),
        ],
    )
    def test_a_problem_gets_the_place_of_the_longest_known_part_of_its_key(self, load, rule, key, line, column):
        """A problem gets the place of the longest part of its key that the file has."""
        entry = attrs.evolve(load(service(self.BODY)).services["kv"], path="f.yaml")
        placed = file_problem(entry, Problem(rule, key, "is wrong", "do it right"))
        assert str(placed) == f"f.yaml:{line}:{column}: error {rule}: services.kv.{key}: is wrong (do it right)"

    def test_a_warning_is_called_one(self, load):
        entry = attrs.evolve(load(service(self.BODY)).services["kv"], path="f.yaml")
        assert str(file_problem(entry, Problem("W05", "cpu_cores", "is advisory"))) == (
            "f.yaml:2:3: warning W05: services.kv.cpu_cores: is advisory"
        )


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
