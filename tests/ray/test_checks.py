"""What the Ray targets report about a configuration before they ask a cluster. No Ray runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_ray
import sage_deploy_threading
from deployment_files import GOOD, surroundings
from sage_deploy_cli.machine.plugin_imports import HEAVY
from sage_deploy_ray.options import ClusterGroupOptions, RayOptions
from sage_deploy_ray.placement.selectors import selector_for
from sage_deploy_remote.placement.selection import AnyNode, NamedNodes, labelled_nodes
from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.config.structure import structure
from sage_plugins.planning.choices import check_config
from sage_plugins.planning.environment_options import NO_OPTIONS
from sage_plugins.plugins.registry import Registry

REGISTRY = Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_ray, sage_deploy_threading)
TARGETS = {
    "remote_any": {},
    "remote_specific": {"target_nodes": ["a", "b"], "replicas": 2, "load_balancing": True},
    "cluster_group": {"node_selector": {"zone": "a"}},
}
GROUPS = {"ray": {"groups": {"gpu": {"nodes": ["a"], "labels": {"zone": "b"}}}}}
each_target = pytest.mark.parametrize("target", TARGETS)


def problems(target, *, alone=True, **config):
    """Return the problems of a configuration, as `id key`. Unless *alone*, add the fields that the target requires."""
    whole = {"target": target, **({} if alone else TARGETS[target]), **config}
    return [f"{each.id} {each.key}" for each in check_config("kv", ServiceDeploymentConfig(**whole), REGISTRY)]


def only(target, environment=NO_OPTIONS, **config):
    """Return the only problem of a configuration."""
    (found,) = check_config("kv", ServiceDeploymentConfig(target=target, **config), REGISTRY, environment)
    return found


@each_target
def test_everything_that_the_target_reads_passes_without_a_word(target):
    """A configuration with all fields that the target reads has no problems."""
    config = {
        "replicas": 2,
        "load_balancing": True,
        "failover_enabled": True,
        "max_replicas_per_node": 1,
        "cpu_cores": 0.25,
        "memory_mb": 512,
        "gpu_count": 0.5,
        "enable_metrics": True,
    }
    assert problems(target, alone=False, **config) == []


@pytest.mark.parametrize("target", ["remote_any", "cluster_group"])
def test_pack_is_read(target):
    """`spread: pack` is accepted by targets that choose the nodes."""
    assert problems(target, alone=False, spread="pack") == []


@each_target
def test_defaults_pass(target):
    assert problems(target, alone=False) == []


@each_target
def test_callers_threads_are_refused(target):
    """`inline` is refused, because replicas do not run in the caller's threads."""
    assert problems(target, alone=False, threading_strategy="inline") == ["E306 threading_strategy"]


def test_named_nodes_are_required():
    """`remote_specific` requires `target_nodes`; an empty list is refused too."""
    found = only("remote_specific")
    assert (found.id, found.key, found.other) == ("E202", "target_nodes", "target")
    assert problems("remote_specific", target_nodes=[]) == ["E202 target_nodes"]


@pytest.mark.parametrize(
    ("target", "config", "better"),
    [
        ("remote_any", {"target_nodes": ["a"]}, "remote_specific"),
        ("remote_any", {"node_selector": {"zone": "a"}}, "cluster_group"),
        ("remote_specific", {"target_nodes": ["a"], "node_selector": {"zone": "a"}}, "cluster_group"),
        ("cluster_group", {"node_selector": {"zone": "a"}, "target_nodes": ["a"]}, "remote_specific"),
    ],
)
def test_nodes_that_the_target_does_not_go_by_are_refused_with_the_one_that_does(target, config, better):
    """A node field that the target does not read is refused, and the fix names the target that reads it."""
    found = only(target, **config)
    assert found.id == "E203"
    assert f"use target '{better}'" in found.fix


def test_group_needs_labels_or_a_name():
    """`cluster_group` requires `node_selector` or a group."""
    assert only("cluster_group").id == "E204"
    assert problems("cluster_group", node_selector={}) == ["E204 node_selector"]


def test_labels_and_a_named_group_are_one_too_many():
    """`node_selector` together with a named group is refused."""
    found = only("cluster_group", GROUPS, node_selector={"zone": "a"}, options={"cluster_group": {"group": "gpu"}})
    assert (found.id, found.key, found.other) == ("E203", "node_selector", "options.cluster_group.group")


def test_named_group_must_be_defined():
    """A named group must be defined in the options; the fix suggests the nearest name."""
    options = {"cluster_group": {"group": "gpu"}}
    config = ServiceDeploymentConfig(target="cluster_group", options=options)
    assert check_config("kv", config, REGISTRY, GROUPS) == []
    found = only("cluster_group", {"ray": {"groups": {"gpus": {"nodes": ["a"]}}}}, options=options)
    assert (found.id, found.key, found.fix) == ("E204", "options.cluster_group.group", "did you mean 'gpus'?")
    assert only("cluster_group", options=options).fix == "define it at the top of the file; groups there: none"


@pytest.mark.parametrize(
    ("groups", "key", "words"),
    [
        ({"gpu": {}}, "options.ray.groups.gpu", "must have nodes or labels"),
        ({"gpu": {"nodes": []}}, "options.ray.groups.gpu.nodes", "length of 1 or more"),
        ({"gpu": {"labels": {"zone": "in(a"}}}, "options.ray.groups.gpu.labels", "at character 5"),
        ({"gpu": {"labels": {"zone": 1}}}, "options.ray.groups.gpu.labels.zone", "must be a string"),
        ({"gpu": {"node": ["a"]}}, "options.ray.groups.gpu.node", "unknown key"),
    ],
)
def test_group_that_is_none_is_refused(groups, key, words):
    """A group without nodes or labels, or with a wrong one, is refused with its key."""
    _, problems = structure(RayOptions, {"groups": groups}, key="options.ray")
    assert [problem.key for problem in problems] == [key]
    assert words in problems[0].message


@pytest.mark.parametrize(
    ("rule", "fields", "selector"),
    [
        ("remote_any", {}, AnyNode()),
        ("remote_specific", {"target_nodes": ["a", "b"]}, NamedNodes(("a", "b"))),
        ("cluster_group", {"node_selector": {"zone": "a"}}, labelled_nodes({"zone": "a"})),
        (
            "cluster_group",
            {"options": {"cluster_group": {"group": "gpu"}}},
            labelled_nodes({"zone": "b"}, ["a"], group="gpu"),
        ),
    ],
)
def test_configuration_selects_nodes_by_its_target(rule, fields, selector):
    config = ServiceDeploymentConfig(target=rule, **fields)
    options = ClusterGroupOptions(**config.options.get("cluster_group", {})) if rule == "cluster_group" else None
    environment, _ = structure(RayOptions, GROUPS["ray"], key="options.ray")
    assert selector_for(rule, config, options, environment) == selector


def test_selector_that_is_none_is_refused_with_its_place():
    """An invalid label selector is refused with its key and the position of the error."""
    found = only("cluster_group", node_selector={"zone": "a", "tier": "in(a"})
    assert (found.id, found.key) == ("E209", "node_selector.tier")
    assert "at character 5" in found.message


def test_label_that_no_node_can_have_is_refused():
    assert only("cluster_group", node_selector={"my zone": "a"}).key == "node_selector.my zone"


def test_more_replicas_than_the_named_nodes_may_hold_are_refused():
    """More replicas than the named nodes may hold are refused."""
    config = {"target_nodes": ["a", "b"], "load_balancing": True, "max_replicas_per_node": 2}
    assert problems("remote_specific", replicas=4, **config) == []
    found = only("remote_specific", replicas=5, **config)
    assert (found.id, found.key, found.other) == ("E206", "replicas", "max_replicas_per_node")
    assert "hold 4" in found.message


def test_node_that_no_replica_is_left_for_is_a_warning():
    """A warning names the first node that gets no replica."""
    assert problems("remote_specific", target_nodes=["a", "b", "c"]) == ["W12 target_nodes.1"]


def test_spread_of_named_nodes_is_a_warning():
    """With named nodes, `spread` has no effect and causes a warning."""
    assert problems("remote_specific", target_nodes=["a"], spread="pack") == ["W12 spread"]


@each_target
@pytest.mark.parametrize(
    ("name", "amount", "fix"),
    [
        ("cpu_cores", 0.12345, "0.1234"),
        ("cpu_cores", 0.00001, "0.0001"),
        ("gpu_count", 0.33333, "0.3333"),
        ("gpu_count", 1.5, "2"),
    ],
)
def test_amount_that_ray_cannot_reserve_is_refused(target, name, amount, fix):
    """An amount that Ray cannot reserve is refused; the fix is the nearest one that it can."""
    (found,) = check_config("kv", ServiceDeploymentConfig(target=target, **{**TARGETS[target], name: amount}), REGISTRY)
    assert (found.id, found.key, found.fix) == ("E208", name, f"set {name}: {fix}")


@pytest.mark.parametrize("amount", [0, 0.0001, 0.1, 0.3, 0.7, 1, 1.0, 2.0, 100.1])
def test_amount_that_ray_can_reserve_passes(amount):
    assert problems("remote_any", cpu_cores=amount) == []
    assert amount == 100.1 or problems("remote_any", gpu_count=amount) == []


def explained(target, **config):
    config = ServiceDeploymentConfig(target=target, **{**TARGETS[target], **config})
    registration = REGISTRY.find("target", target).registration
    cls = registration.options_class()
    lines = list(registration.explain(config, None if cls is None else cls(), RayOptions()))
    return {str(getattr(line, "text", line)): getattr(line, "kind", "decides") for line in lines}


@each_target
def test_what_is_reserved_is_said_and_what_nothing_enforces_too(target):
    """The explanation says what is reserved and enforced, and what nothing enforces."""
    lines = explained(target, cpu_cores=2, memory_mb=512, gpu_count=1)
    assert (
        lines["each replica reserves 2 CPUs, 512 MiB memory, 1 GPU: a node never holds more than it has"] == "enforced"
    )
    assert lines["cpu_cores and memory_mb: a replica that uses more than it reserves is not stopped"] == "advisory"
    assert "OMP_NUM_THREADS is 2 in replicas where it is not set, going by cpu_cores" in lines
    assert lines["what runs on after that can be ended only with its replica's process"] == "timeout"
    assert any("copied" in line for line in lines)


def test_default_of_one_core_is_said():
    """The explanation says that one core is reserved by default."""
    lines = explained("remote_any", max_replicas_per_node=3)
    assert "each replica reserves 1 CPU (cpu_cores is not given): a node never holds more than it has" in lines
    assert "at most 3 of the service's replicas on a node" in lines


def test_discovery_imports_neither_ray_nor_anything_heavy():
    code = (
        "import sys, sage_deploy_ray; from sage_plugins.plugins.registry import Registry; "
        "Registry.of(sage_deploy_ray); print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"ray", "asyncio", "numpy", *HEAVY}.isdisjoint(loaded)


def test_good_file_passes_without_a_word():
    """A file with all fields that the Ray targets read has no problems; no cluster is asked."""
    with surroundings(GOOD), Environment("trial") as env:
        env.load_service_deployment_config("cluster.yaml")
        assert env.check() == []
