"""Each process has one connection to a Ray cluster: who owns it, what nodes say, and what questions cost."""

from __future__ import annotations

import logging
import os
import threading

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sage_deploy_ray.cluster import connection
from sage_deploy_ray.cluster.connection import connect
from sage_plugins.errors import ClusterUnavailableError

pytestmark = pytest.mark.ray


@pytest.fixture
def connected(cluster):
    """Connections of this process, which is a driver already; all are released at the end of the test."""
    made = []

    def make(**options):
        made.append(connect(**options))
        return made[-1]

    yield make
    for each in made:
        each.release()


# -- a Ray that is there already -------------------------------------------------------------------------------------


def test_ray_that_the_program_began_is_used_and_left_alone(cluster):
    """If the program has started Ray itself, the connection uses it and does not shut it down."""
    first, second = connect(), connect(namespace="other")

    assert (first.address, first.owned) == (cluster.address, False)
    assert (first.namespace, second.namespace) == ("sage-deploy", "other")

    for each in (first, second, first):
        each.release()
    assert ray.is_initialized()


def test_worker_of_the_cluster_uses_the_connection_that_it_has(cluster):
    """A worker of the cluster uses the connection that it has."""

    @ray.remote(num_cpus=0.01)
    class Actor:
        def look(self):
            mine = connect()
            found = mine.address, mine.owned, len(mine.nodes())
            mine.release()
            return found, ray.is_initialized()

    actor = Actor.remote()
    try:
        found = ray.get(actor.look.remote(), timeout=30)
    finally:
        ray.kill(actor)
    assert found == ((cluster.address, False, 4), True)


@pytest.mark.parametrize("address", ["192.0.2.77:6379", "local"])
def test_another_address_than_that_of_this_process_is_refused(connected, cluster, address):
    """A second address in one process is refused with both addresses."""
    connected()

    with pytest.raises(ClusterUnavailableError) as found:
        connect(address=address)

    assert cluster.address in str(found.value)
    assert repr(address) in str(found.value)
    assert "one cluster a process" in str(found.value)


@pytest.mark.parametrize("name", ["the same", "auto", "by its host's name"])
def test_the_same_address_is_not_refused(connected, cluster, name, monkeypatch):
    """The same cluster under another name is not refused."""
    monkeypatch.setattr(connection.socket, "gethostbyname", {"head": cluster.address.rpartition(":")[0]}.get)
    by_name = f"head:{cluster.address.rpartition(':')[2]}"
    connected()

    connected(address={"the same": cluster.address, "auto": "auto"}.get(name, by_name))


# -- nodes -----------------------------------------------------------------------------------------------------------


def test_nodes_say_what_they_are_and_have(connected, cluster):
    """The nodes are listed with names, ids, labels and resources."""
    nodes = {node.name: node for node in connected().nodes()}

    assert list(nodes) == ["head", "node-a1", "node-a2", "node-b1"]
    gpu = nodes["node-b1"]
    assert gpu.id == cluster.nodes["node-b1"].id
    assert gpu.labels.items() >= {"zone": "b", "tier": "gpu"}.items()
    assert gpu.total == gpu.free == (32.0, 4 * 2**30, 2.0)
    assert nodes["head"].total.cpu == 0
    assert gpu.hostname == os.uname().nodename
    assert gpu.address == cluster.address.rpartition(":")[0]


def test_what_an_actor_reserves_is_not_free(connected, cluster, until):
    """What an actor reserves is subtracted from the node's free resources."""
    there = NodeAffinitySchedulingStrategy(cluster.nodes["node-b1"].id, soft=False)

    @ray.remote(num_cpus=32, num_gpus=0.5, memory=2**30, scheduling_strategy=there)
    class Actor:
        pass

    def free():
        return {node.name: node.free for node in connected().nodes()}["node-b1"]

    actor = Actor.remote()
    until(lambda: free() == (0.0, 3 * 2**30, 1.5))
    ray.kill(actor)
    until(lambda: free() == (32.0, 4 * 2**30, 2.0))


def test_dead_node_is_not_listed(connected, cluster):
    node = cluster.add("node-x1")
    assert "node-x1" in {each.name for each in connected().nodes()}

    node.kill()
    cluster.wait_until_dead(node)

    assert "node-x1" not in {each.name for each in connected().nodes()}


# -- questions without an answer -------------------------------------------------------------------------------------


def test_question_that_ray_does_not_answer_ends_in_time_and_says_what_to_do(connected, cluster):
    """A question that Ray does not answer fails at its timeout, and says what to do."""
    answer = threading.Event()
    mine = connected(control_timeout=0.05)

    with pytest.raises(ClusterUnavailableError) as found:
        mine.ask("its actors", answer.wait)

    answer.set()
    assert str(found.value).startswith(f"the Ray cluster at {cluster.address} did not say its actors within 0.05 s")
    assert f"ray status --address {cluster.address}" in str(found.value)


def test_questions_without_an_answer_do_not_pile_up(connected):
    """At most eight questions may be unanswered; the ninth fails at once. Answers make room again."""
    answer = threading.Event()
    mine = connected(control_timeout=60)

    for _ in range(8):
        with pytest.raises(ClusterUnavailableError):
            mine.ask("its actors", answer.wait, timeout=0)
    with pytest.raises(ClusterUnavailableError, match="8 earlier questions are still without an answer"):
        mine.ask("its actors", lambda: pytest.fail("was asked"))
    answer.set()
    for thread in threading.enumerate():
        if thread.name == "sage-ray-control":
            thread.join()

    assert mine.nodes()


def test_error_of_the_question_itself_is_raised_as_it_is(connected):
    """An error raised by the question itself is passed on unchanged."""
    with pytest.raises(ZeroDivisionError):
        connected().ask("nothing", lambda: 1 / 0)


def test_released_connection_is_refused_and_says_so(connected):
    mine = connected()
    mine.release()

    with pytest.raises(ClusterUnavailableError, match="was released: connect again"):
        mine.nodes()


# -- clusters that cannot be used ------------------------------------------------------------------------------------


def test_open_cluster_is_warned_of_once(cluster, caplog, monkeypatch):
    """A cluster without a token causes one warning per process, not one per connection."""
    monkeypatch.setattr(connection, "_runtime", None)  # an earlier test may have called a service of another process
    with caplog.at_level(logging.WARNING, "sage_plugins.ray"):
        first = connect()
        connect().release()
        first.release()

    (found,) = caplog.messages
    assert f"the cluster at {cluster.address} asks for no token" in found
