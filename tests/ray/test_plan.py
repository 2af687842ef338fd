"""What a plan says about a service on Ray before a runtime exists. No test here starts one."""

from __future__ import annotations

import sys
import threading

import pytest

from sage_plugins import Environment, ServiceDeploymentConfig, errors

ON_RAY = ServiceDeploymentConfig(target="remote_any", cpu_cores=0.1)


class Store:
    def __init__(self, guard=None):
        self.guard = guard

    def get(self, key):
        return key


@pytest.fixture(autouse=True)
def _no_runtime(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        pytest.skip("a runtime is there: other tests of this process have started it")


def test_plan_for_a_private_runtime_starts_none():
    """A plan for a private runtime is about this machine and starts no runtime."""
    with Environment("test") as env:
        env.register_service_with_config("kv", Store, deployment_config=ON_RAY)
        assert "kv#0 -> this machine" in str(env.plan())
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized()


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ("auto", "calls go over a socket to each replica; where no connection can be made they are tasks of Ray"),
        ("socket", "calls go over a socket to each replica; one that cannot be connected to fails"),
        ("tasks", "calls are tasks of Ray, which are slower than a socket"),
    ],
)
def test_plan_says_how_calls_go(calls, said):
    """The plan says how calls are sent, and which option decides it."""
    with Environment("test", options={"ray": {"calls": calls}}) as env:
        env.register_service_with_config("kv", Store, deployment_config=ON_RAY)
        text = " ".join(str(env.plan()).split())
    assert said in text
    assert "(options.ray.calls)" in text


def test_plan_refuses_what_cannot_be_sent_to_a_replica():
    """An argument that cannot be sent is refused in the plan and before deployment, with its path and what to do."""
    with Environment("test") as env:
        env.register_service_with_config("kv", Store, {"mine": threading.Lock()}, deployment_config=ON_RAY)
        text = str(env.plan())
        assert "E703" in text
        assert "['mine']: cannot pickle '_thread.lock' object" in text
        assert "build it in __init__ or setup()" in text
        with pytest.raises(errors.DeployError, match=r"E703.*argument 1 of Store"):
            env.deploy()
