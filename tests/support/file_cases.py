"""Deployment files for tests: the request's own, and wrong ones with the places and rules of their problems."""

from __future__ import annotations

from sage_deploy_files.reading.nodes import MAX_BYTES, MAX_NODES, MAX_SCALAR

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


def service(body):
    """Return a file with one service; the body's first line is line 3, and its columns count from 5."""
    return "services:\n  kv:\n" + "".join(f"    {line}\n" for line in body.split("\n"))


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
    ("overload: reject\nqueue_size: 0\nautoscale:\n  min: 0", ["4:17 E406"]),
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
