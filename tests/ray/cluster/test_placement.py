"""On a real cluster replicas run where the plan says. A replica without a place is refused before anything starts."""

from __future__ import annotations

import re

import pytest
import ray

from sage_plugins import ServiceDeploymentConfig
from sage_plugins.errors import DeployError

pytestmark = pytest.mark.ray

GROUPS = {"ray": {"groups": {"spare": {"nodes": ["node-a2", "node-gone"], "labels": {"zone": "in(a, b)"}}}}}


class Where:
    """Returns the node on which it runs."""

    def node(self):
        return ray.get_runtime_context().get_node_id()

    def fail(self):
        raise ValueError("nowhere")


@pytest.fixture
def service(cluster, environments):
    """Register the service; return its environment."""

    def register(target, replicas=1, **config):
        env = environments("placed", options=GROUPS)
        config = {"cpu_cores": 0.1, "monitors": ["metrics"], "load_balancer": "round_robin"} | config
        env.register_service_with_config(
            "where",
            Where,
            deployment_config=ServiceDeploymentConfig(
                target=target, replicas=replicas, load_balancing=replicas > 1, **config
            ),
        )
        return env

    return register


@pytest.fixture
def names(cluster):
    """Deploy; return each replica's node, after checking that the replicas report the same nodes."""

    def deploy(env):
        env.deploy()
        planned = [replica["node"] for replica in env.get_service_status("where")["replicas"]]
        handle = env.service("where")
        by_id = {node.id: node.name for node in cluster.nodes.values()}
        said = [by_id[handle.node()] for _ in planned]
        assert sorted(said) == sorted(planned)
        return planned

    return deploy


@pytest.mark.wheels
def test_named_nodes_are_taken_in_turn(service, names):
    """Replicas use the named nodes in turn."""
    env = service("remote_specific", 3, target_nodes=["node-b1", "node-a2"])

    planned = [replica.where for replica in env.plan().services[0].replicas]

    assert names(env) == planned == ["node-b1", "node-a2", "node-b1"]


@pytest.mark.wheels
def test_replicas_spread_over_the_nodes_with_the_labels(service, names):
    assert sorted(names(service("cluster_group", 2, node_selector={"zone": "a"}))) == ["node-a1", "node-a2"]


def test_label_may_be_one_that_a_node_must_not_have(service, names):
    """`!exists` selects nodes without that label."""
    env = service("cluster_group", node_selector={"zone": "exists", "tier": "!exists"}, max_replicas_per_node=1)

    assert names(env)[0] in {"node-a1", "node-a2"}


def test_named_group_has_the_nodes_that_fit_its_names_and_its_labels(service, names):
    """A named group has the nodes that match its names and labels; a name without a live node is ignored."""
    assert names(service("cluster_group", 2, options={"cluster_group": {"group": "spare"}})) == ["node-a2", "node-a2"]


@pytest.mark.wheels
def test_packed_replicas_share_a_node_until_it_has_as_many_as_it_may(service, names):
    """`pack` fills a node up to `max_replicas_per_node` before it uses the next."""
    planned = names(service("remote_any", 3, spread="pack", cpu_cores=1, max_replicas_per_node=2))

    assert planned[0] == planned[1] != planned[2]


ZONE_A = {"target": "cluster_group", "node_selector": {"zone": "a"}}


@pytest.mark.parametrize(
    ("config", "rule", "reasons"),
    [
        (
            {"target": "remote_specific", "target_nodes": ["node-a11"]},
            "E801",
            ["no live node is called 'node-a11': did you mean 'node-a1'?", "head, node-a1, node-a2, node-b1"],
        ),
        (
            {"target": "cluster_group", "node_selector": {"zone": "c"}},
            "E801",
            ["no live node belongs to node_selector", "node-a1: lacks label zone=c", "head: lacks label zone=c"],
        ),
        (ZONE_A | {"cpu_cores": 33}, "E802", ["node-a1: has only 32 CPUs", "node-b1: lacks label zone=a"]),
        (ZONE_A | {"memory_mb": 5000}, "E802", ["node-a2: has only 4096 MiB memory"]),
        (ZONE_A | {"gpu_count": 1}, "E803", ["no node that may hold it has a GPU"]),
        (ZONE_A | {"replicas": 3, "cpu_cores": 20}, "E806", ["node-a1: has 12 of 32 CPUs free", "no node that may"]),
        (
            ZONE_A | {"replicas": 3, "max_replicas_per_node": 1},
            "E806",
            ["node-a1: already has 1 of at most 1 replica", "node-a2: already has 1 of at most 1 replica"],
        ),
    ],
)
def test_what_has_no_place_is_refused_before_anything_starts(service, cluster, config, rule, reasons):
    """Replicas without a place are refused with the reasons in plan and error, before any actor starts."""
    env = service(**config)
    before = cluster.held()

    plan = env.plan()
    with pytest.raises(DeployError, match=rule) as refused:
        env.deploy()

    assert cluster.held() <= before
    assert [replica.rule for replica in plan.unplaced] == [rule]
    for reason in reasons:
        assert reason in str(plan)
        assert reason in str(refused.value)


def test_name_of_two_nodes_is_refused_with_their_ids_by_which_each_can_be_had(service, cluster):
    """A name of two nodes is refused with their ids; each can be named by its id."""
    twin = cluster.add("twin", called="node-a1")
    by_name = service("remote_specific", target_nodes=["node-a1"])
    by_id = service("remote_specific", target_nodes=[twin.id])

    with pytest.raises(DeployError, match=re.escape("'node-a1' is ambiguous, 2 live nodes have that name")) as refused:
        by_name.deploy()
    by_id.deploy()

    assert twin.id in str(refused.value)
    assert cluster.nodes["node-a1"].id in str(refused.value)
    assert by_id.service("where").node() == twin.id


def test_nodes_are_those_of_the_cluster_with_what_is_free_and_what_runs_there(service, names, cluster):
    """
    `env.nodes()` lists the nodes with free resources and replicas. Errors and stacks come from the remote processes.
    """
    env = service("remote_any", replicas=2)
    planned = names(env)
    nodes = {node["name"]: node for node in env.nodes()}
    assert set(nodes) == {"head", *(node.name for node in cluster.nodes.values())}
    for name, node in nodes.items():
        assert node["state"] == "alive"
        assert 0 <= node["cpu"][0] <= node["cpu"][1]
        assert len(node["replicas"]) == planned.count(name)
    assert "thread MainThread" in env.stacks("where", "where#1")
    with pytest.raises(ValueError, match="nowhere"):
        env.service("where").fail()
    (error,) = env.errors("where")
    assert (error.type, error.message, error.method) == ("ValueError", "nowhere", "fail")
