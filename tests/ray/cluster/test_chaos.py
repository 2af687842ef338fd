"""Services on a cluster survive failures under load: no call is lost or runs twice, and the services recover."""

from __future__ import annotations

import pytest

from sage_deploy_testing.chaos.run import Setting, run
from sage_deploy_testing.chaos.verdict import Verdict
from sage_plugins import ServiceDeploymentConfig

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

REPLICAS, SLOTS = 3, 2
MANY = ServiceDeploymentConfig(
    target="remote_any",
    cpu_cores=0.1,
    threading_strategy="pool",
    thread_count=SLOTS,
    thread_pool_size=SLOTS,
    replicas=REPLICAS,
    load_balancing=True,
    failover_enabled=True,
    queue_size=10_000,
    timeout=60.0,
)
COROUTINES = ServiceDeploymentConfig(
    target="remote_any", cpu_cores=0.1, threading_strategy="async", batch_size=4, timeout=20.0
)


def chaos(cluster, services, seconds, *, kill_node=None, **setting):
    """Run the load, check that the verdict on it is clean, and return the history and the verdict."""
    setting = {"slack": 20.0, "seed": 1, "options": {"ray": {"address": cluster.address}}, **setting}
    events = run(Setting(services=services, seconds=seconds, **setting), kill_node=kill_node)
    verdict = Verdict.of(events)
    assert verdict.is_clean, "\n".join(verdict.lines())
    return events, verdict


def survive(cluster, seconds, *, nodes, **setting):
    for number in range(nodes):
        cluster.add(f"node-x{number}", cpus=64)  # it has the most CPUs, so that some replica is placed there

    def kill_node(random):
        left = [name for name in cluster.nodes if name.startswith("node-x")]
        if not left:
            return None
        name = random.choice(left)
        cluster.nodes[name].kill()
        return name

    _, verdict = chaos(
        cluster, {"many": MANY, "coroutines": COROUTINES}, seconds, kill_node=kill_node, every=0.5, **setting
    )
    assert verdict.deaths >= 1
    assert verdict.done["node"] >= 1
    assert verdict.impossible == {}


@pytest.mark.timeout(300)
def test_calls_to_a_cluster_survive_accidents(cluster):
    """Calls survive failures of replicas and of a node."""
    survive(cluster, 5, nodes=1, seed=1)  # with this seed a node is among the first


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_calls_to_a_cluster_survive_minutes_of_accidents(cluster):
    """Calls survive minutes of failures, with several dead nodes."""
    survive(cluster, 180, nodes=3, seed=4)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_calls_survive_a_minute_of_kills(cluster):
    """Idempotent calls survive a minute of kills with a delay only, unless two replicas died while they ran."""
    events, verdict = chaos(cluster, {"svc": MANY}, 60, actions=("kill",), every=1.0, kill_every=3.0, recovery=120.0)
    idempotent = {each["call"] for each in events if each["event"] == "invoke" and each["idempotent"]}
    died = [each for each in events if each.get("error") == "ReplicaDiedError" and each["call"] in idempotent]
    assert verdict.done["kill"] >= 10
    assert [each["text"] for each in died if "2 replicas have died while they ran it" not in each["text"]] == []
    assert set(verdict.outcomes) <= {
        "ok",
        "ProbeError",
        "ReplicaDiedError",
        "CallCancelledError",
        "CancelledError",
        "CallTimeoutError (queue)",
        "CallTimeoutError (run)",
    }
