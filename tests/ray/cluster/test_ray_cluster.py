"""The test cluster is as the other tests expect it, and the leak guard finds what a test leaves on it."""

from __future__ import annotations

import os
import socket
import threading

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_cluster import title_of
from sage_deploy_testing.tools import leak_guard

pytestmark = pytest.mark.ray


@ray.remote(num_cpus=0.01)
class Actor:
    def pid(self) -> int:
        return os.getpid()


@pytest.fixture
def actor_on():
    """Start an actor on a node; all are killed at the end of the test."""
    started = []

    def start(node, **options):
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        started.append(Actor.options(scheduling_strategy=there, **options).remote())
        return started[-1], ray.get(started[-1].pid.remote())

    yield start
    for actor in started:
        ray.kill(actor)


@pytest.fixture
def caught(request, monkeypatch):
    """Return what the leak guard reports about things started since."""
    monkeypatch.setattr(leak_guard, "GRACE_S", 0.1)
    watching = leak_guard.LeakGuard()
    watching.take_stock()

    def check():
        with pytest.raises(pytest.fail.Exception) as found:
            watching.check(request.node)
        return str(found.value)

    return check


def test_nodes_have_names_labels_and_resources(cluster):
    """The nodes have their names, labels and resources."""
    found = {node["NodeName"]: node for node in ray.nodes() if node["Alive"]}

    assert set(found) == {"head", "node-a1", "node-a2", "node-b1"}
    assert found["node-b1"]["Labels"].items() >= {"zone": "b", "tier": "gpu"}.items()
    assert found["node-b1"]["Resources"]["GPU"] == 2
    assert found["node-a1"]["NodeID"] == cluster.nodes["node-a1"].id


def test_driver_is_on_the_head_so_that_every_other_node_can_be_killed(cluster):
    """The driver runs on the head, so that every other node can be killed."""
    (head,) = (node for node in ray.nodes() if node["NodeName"] == "head" and node["Alive"])

    assert ray.get_runtime_context().get_node_id() == head["NodeID"]


def test_killed_node_is_gone_with_its_workers_and_soon_dead_to_the_head(cluster, actor_on):
    """A killed node is gone with its workers, and soon dead to the head."""
    node = cluster.add("node-x1")
    actor, pid = actor_on(node)
    assert pid in node.children

    node.kill()

    cluster.wait_until_dead(node)
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(actor.pid.remote(), timeout=20)
    assert not title_of(pid)


def test_frozen_node_is_soon_dead_to_the_head(cluster):
    node = cluster.add("node-x1")
    node.freeze()

    cluster.wait_until_dead(node)

    node.thaw()


def test_nodes_of_a_test_end_with_it(cluster):
    """Nodes that a test has added end with it. Runs after the tests that added a node of this name."""
    assert set(cluster.nodes) == {"node-a1", "node-a2", "node-b1"}


def test_forgotten_actor_is_caught_and_named(cluster, actor_on, caught):
    _, pid = actor_on(cluster.nodes["node-a1"], name="forgotten")

    said = caught()

    assert "actor Actor 'forgotten'" in said
    assert f"worker process {pid} on node-a1: ray::Actor" in said


def test_actor_that_finds_no_node_is_caught(cluster, caught, until):
    actor = Actor.options(num_cpus=1000).remote()
    until(cluster.held)  # Ray registers it in the background

    assert "actor Actor " in caught()

    ray.kill(actor)


def test_thread_and_connection_of_ours_are_caught_beside_those_of_ray(cluster, actor_on, caught):
    """A thread and a socket of ours are reported; the connections of Ray's driver to its actors are not."""
    actor_on(cluster.nodes["node-a1"])
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="forgotten-thread")
    thread.start()
    with socket.socket() as ours:
        said = caught()
        descriptor = ours.fileno()
    stop.set()
    thread.join()

    assert "thread 'forgotten-thread'" in said
    assert [line.split(":")[0] for line in said.splitlines() if "descriptor" in line] == [
        f"file descriptor {descriptor}"
    ]


def test_ended_actors_are_no_leak(cluster, actor_on):
    """Actors that have ended are no leak: the guard reports nothing about this very test."""
    for node in cluster.nodes.values():
        actor_on(node)
