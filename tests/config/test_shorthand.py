"""Short registrations that name only the nodes, or the size of a pool in this process."""

from __future__ import annotations

import pytest

from sage_plugins import ServiceDeploymentConfig, errors


class Store:
    def __init__(self, *args, **kwargs):
        self.given = (args, kwargs)

    def constructor(self):
        return self.given

    def index(self):
        return self.ctx.replica_index


def config_of(env, name="svc"):
    return env._services.catalogue.config(name)


# -- on nodes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "config"),
    [
        (
            {"nodes": ["a"]},
            {"target_nodes": ["a"], "replicas": 1, "load_balancing": False, "threading_strategy": "single"},
        ),
        (
            {"nodes": ("a", "b"), "threads": 6, "memory_mb": 8192},
            {
                "target_nodes": ["a", "b"],
                "replicas": 2,
                "load_balancing": True,
                "threading_strategy": "pool",
                "thread_count": 6,
                "memory_mb": 8192,
            },
        ),
        (
            {"nodes": ["a", "b"], "load_balancing": False, "failover_enabled": True},
            {"target_nodes": ["a", "b"], "replicas": 2, "load_balancing": False, "failover_enabled": True},
        ),
    ],
)
def test_one_replica_on_each_node(env, given, config):
    """`register_service_on_nodes` puts one replica on each node and balances several. A setting that is given wins."""
    env.register_service_on_nodes("svc", Store, **given)
    assert config_of(env) == ServiceDeploymentConfig(target="remote_specific", **config)


def test_everything_else_goes_to_the_constructor(env):
    """All other arguments go to the constructor; only the configuration's names are settings."""
    factory = env.register_service_on_nodes("svc", Store, "x", nodes=["a"], timeout=5.0, path="/data", gpus=2)
    assert (factory.service_args, factory.service_kwargs) == (("x",), {"path": "/data", "gpus": 2})
    assert config_of(env).timeout == 5.0


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"nodes": "node-1"}, "nodes: must be a list of names, got 'node-1'"),
        ({"nodes": None}, "nodes: must be a list of names, got null"),
        ({"nodes": []}, "nodes: must have at least one name"),
        ({"nodes": ["a", 1]}, "target_nodes"),
        ({"nodes": ["a"], "threads": 0}, "threads: must be an integer, 1 or more, got 0"),
        ({"nodes": ["a"], "threads": True}, "threads: must be an integer"),
        ({"nodes": ["a"], "replicas": 3}, "replicas: is decided by nodes here"),
        ({"nodes": ["a"], "target": "local"}, "target: is decided by nodes here"),
        ({"nodes": ["a"], "queue_size": -1}, "queue_size: must be 0 or more"),
    ],
)
def test_wrong_nodes_are_refused(env, given, text):
    """Wrong nodes or settings are refused, and nothing is registered."""
    with pytest.raises(errors.ConfigError, match=text):
        env.register_service_on_nodes("svc", Store, **given)
    assert env.service_factories == {}


# -- a pool in this process --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "config"),
    [
        ({"pool_size": 1}, {}),
        ({"pool_size": 3}, {"replicas": 3, "load_balancing": True}),
        (
            {"pool_size": 3, "max_threads": 12, "gpu_count": 1},
            {
                "replicas": 3,
                "load_balancing": True,
                "threading_strategy": "pool",
                "thread_count": 4,
                "gpu_count": 1,
            },
        ),
        (
            {"pool_size": 3, "max_threads": 11},
            {"replicas": 3, "load_balancing": True, "threading_strategy": "pool", "thread_count": 3},
        ),
        ({"pool_size": 3, "max_threads": 2}, {"replicas": 3, "load_balancing": True}),
        (
            {"pool_size": 2, "threading_strategy": "inline"},
            {"replicas": 2, "load_balancing": True, "threading_strategy": "inline"},
        ),
    ],
)
def test_threads_are_shared_out_among_the_replicas(env, given, config):
    """A pool's `max_threads` are divided among its replicas, rounded down."""
    env.register_local_service_pool("svc", Store, **given)
    assert config_of(env) == ServiceDeploymentConfig(target="local", **config)


def test_pool_is_deployed(env):
    """A registered pool can be called at once, and the constructor gets its arguments."""
    env.register_local_service_pool("svc", Store, 1, pool_size=3, max_threads=6, model="tiny", queue_size=7)
    service = env.service("svc")
    assert service.constructor() == ((1,), {"model": "tiny"})
    assert {service.index() for _ in range(6)} == {0, 1, 2}
    assert env.get_service_status("svc")["deployment_config"].queue_size == 7


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"pool_size": 0}, "pool_size: must be an integer, 1 or more, got 0"),
        ({"pool_size": "3"}, "pool_size: must be an integer"),
        ({"pool_size": 2, "max_threads": 0}, "max_threads: must be an integer, 1 or more, got 0"),
        ({"pool_size": 2, "target_nodes": ["a"]}, "target_nodes: is decided by pool_size here"),
    ],
)
def test_wrong_pools_are_refused(env, given, text):
    """Wrong pool sizes or settings are refused."""
    with pytest.raises(errors.ConfigError, match=text):
        env.register_local_service_pool("svc", Store, **given)
