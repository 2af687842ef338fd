"""`gpu_count` reserves GPUs, and a replica sees only its own. The test nodes only claim to have GPUs."""

from __future__ import annotations

import os

import pytest
import ray

from sage_plugins import ServiceDeploymentConfig
from sage_plugins.errors import DeployError

pytestmark = pytest.mark.ray


class Devices:
    """Returns the GPUs that it sees."""

    def seen(self):
        return os.environ.get("CUDA_VISIBLE_DEVICES"), [str(id) for id in ray.get_gpu_ids()]


@pytest.fixture
def service(cluster, environments):
    """Register a service whose replicas have GPUs; return its environment."""

    def register(replicas, gpu_count, target="remote_any", **config):
        env = environments(f"gpus-{replicas}", options={})
        env.register_service_with_config(
            "devices",
            Devices,
            deployment_config=ServiceDeploymentConfig(
                target=target,
                replicas=replicas,
                load_balancing=replicas > 1,
                load_balancer="round_robin",
                gpu_count=gpu_count,
                cpu_cores=0.1,
                monitors=["metrics"],
                **config,
            ),
        )
        return env

    return register


def test_each_replica_sees_the_gpu_that_it_has_and_a_third_has_none_left(service):
    """Each replica sees its own GPU. A third replica is refused until the others have stopped."""
    env = service(2, 1)
    env.deploy()

    assert [replica["node"] for replica in env.get_service_status("devices")["replicas"]] == ["node-b1", "node-b1"]
    handle = env.service("devices")
    assert sorted(handle.seen() for _ in range(2)) == [("0", ["0"]), ("1", ["1"])]

    third = service(1, 1)
    with pytest.raises(DeployError, match=r"E806: it needs 0\.1 CPUs and 1 GPU") as refused:
        third.deploy()
    assert "node-b1: has 0 of 2 GPUs free" in str(refused.value)
    assert "node-a1: has no GPU" in str(refused.value)

    env.drain("devices")
    third.deploy()
    assert third.service("devices").seen()[0] in {"0", "1"}


def test_shares_lie_on_one_gpu(service):
    """Two replicas with 0.4 GPUs each see one GPU each; Ray chooses which."""
    env = service(2, 0.4)
    env.deploy()

    handle = env.service("devices")
    for visible, ids in (handle.seen() for _ in range(2)):
        assert visible in {"0", "1"}
        assert ids == [visible]


def test_more_gpus_than_a_node_has_are_refused_for_good(service):
    """More GPUs than any node has are refused with E802."""
    with pytest.raises(DeployError, match=r"E802: it needs 0\.1 CPUs and 3 GPUs") as refused:
        service(1, 3).deploy()
    assert "node-b1: has only 2 GPUs" in str(refused.value)


def test_replica_without_gpus_leaves_their_variable_as_the_node_has_it(service):
    """
    Without `gpu_count`, CUDA_VISIBLE_DEVICES stays as on the node, unless RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO is set.
    """
    env = service(1, None, "remote_specific", target_nodes=["node-b1"])

    assert env.service("devices").seen() == (os.environ.get("CUDA_VISIBLE_DEVICES"), [])
