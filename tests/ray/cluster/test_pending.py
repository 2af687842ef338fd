"""If Ray does not start a replica's actor, the deployment error says what it waits for and what to do."""

from __future__ import annotations

import pytest
import ray

from sage_deploy_ray import target as ray_target
from sage_plugins import ServiceDeploymentConfig
from sage_plugins.errors import DeployError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


class Service:
    def method(self):
        return 1


@ray.remote(num_cpus=32)
class Other:
    """An actor of someone else, which takes the resources that were free when the replica was placed."""

    def wait_made(self):
        """Return once the actor runs."""


def test_replica_for_which_nothing_is_free_any_more_says_what_it_waits_for(environments, monkeypatch):
    """If a replica's resources are taken after it was placed, the error says what it waits for."""
    env = environments("pending")
    config = ServiceDeploymentConfig(target="remote_specific", target_nodes=["node-b1"], startup_timeout=1.0)
    env.register_service_with_config("svc", Service, deployment_config=config)
    others = []
    start_actor = ray_target._start_actor

    def start_second(need, node_id, *how):
        others.append(Other.options(scheduling_strategy=on_node(node_id)).remote())
        ray.get(others[-1].wait_made.remote())
        return start_actor(need, node_id, *how)

    monkeypatch.setattr(ray_target, "_start_actor", start_second)
    with pytest.raises(DeployError) as caught:
        env.deploy()
    ray.kill(others[0])

    text = str(caught.value)
    assert "svc#0 not ready after 1 s; it has no process yet, Ray calls its actor PENDING_CREATION" in text
    assert "it reserves 1 CPU on node-b1, which has 0 of 32 CPUs free" in text
    assert "constructor" not in text


def on_node(node_id):
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id, soft=False)
