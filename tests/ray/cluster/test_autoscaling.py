"""On a real cluster a service is scaled up and down, and reports it if the cluster has no room."""

from __future__ import annotations

import fcntl
import threading

import pytest

from sage_plugins import ServiceDeploymentConfig

pytestmark = pytest.mark.ray

PATIENCE = 60.0

QUICK = {"target_ongoing_requests": 1, "upscale_delay": 0.2, "downscale_delay": 0.5, "look_back": 0.5}


class Held:
    """A call returns once the file is no longer locked."""

    def hold(self, path):
        with open(path) as file:  # noqa: PTH123 - only the lock matters
            fcntl.flock(file, fcntl.LOCK_SH)
        return self.ctx.replica_index

    def echo(self, value):
        return value


class Asks:
    """Calls the other service from its own process."""

    def ask(self, method, value):
        return self.ctx.service("svc").call(method, value)


class Noted:
    """Records every event; a test can wait for one."""

    def __init__(self):
        self.events = []
        self._came = threading.Condition()

    def event(self, event):
        with self._came:
            self.events.append(event)
            self._came.notify_all()

    def wait(self, kind, text=""):
        def found():
            return next((e.reason for e in self.events if e.kind == kind and text in e.reason), None)

        with self._came:
            assert self._came.wait_for(found, PATIENCE), [tuple(event) for event in self.events]
            return found()


@pytest.fixture
def noted():
    return Noted()


@pytest.fixture
def deploy(cluster, environments, noted):
    """Deploy the service, and others if given; return the environment."""

    def make(autoscale, **others):
        env = environments("elastic", on_event=noted.event)
        # Each of the two nodes has 32 CPUs, so there is room for two replicas.
        config = {"target": "cluster_group", "node_selector": {"zone": "a"}, "cpu_cores": 20}
        config |= {"timeout": PATIENCE, "drain_timeout": PATIENCE}
        scaled = ServiceDeploymentConfig(autoscale=QUICK | autoscale, **config)
        env.register_service_with_config("svc", Held, deployment_config=scaled)
        for name, cls in others.items():
            fixed = ServiceDeploymentConfig(
                target="remote_any", cpu_cores=0, timeout=PATIENCE, threading_strategy="pool", thread_pool_size=4
            )
            env.register_service_with_config(name, cls, deployment_config=fixed)
        env.deploy()
        return env

    return make


def living(env):
    return [each["id"] for each in env.get_service_status("svc")["replicas"]]


def test_service_grows_to_what_the_cluster_has_and_shrinks(deploy, noted, until, tmp_path):
    """
    If more replicas are wanted than fit, as many start as fit. The rest is refused with the reason; no call is lost.
    """
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        env = deploy({"max": 4})
        calls = [env.service("svc").submit("hold", str(tmp_path / "lock")) for _ in range(6)]
        noted.wait("scaled", "to 2 replicas")
        refused = noted.wait("scaling_refused", "4 are wanted")
        assert "and there is room for 2: " in refused
        assert "has 12 of 32 CPUs free" in refused
        assert env.get_service_status("svc")["autoscale"]["wanted"] == 4
    assert {call.result(PATIENCE) for call in calls} == {0, 1}
    noted.wait("scaled", "to 1 replica")
    until(lambda: living(env) == ["svc#0"])


def test_call_of_another_process_wakes_a_service_without_replicas(deploy, noted, until):
    """A call from a replica of another service wakes a service without replicas; it waits and is answered."""
    env = deploy({"min": 0, "max": 1, "scale_to_zero_delay": 0.5}, asks=Asks)
    for value in range(2):
        until(lambda: living(env) == [])
        assert env.service("asks").ask("echo", value) == value


def test_calls_that_wait_in_another_process_bring_replicas(deploy, noted, tmp_path):
    """Calls that wait in another process count for scaling: four ongoing calls exceed the aim of two per replica."""
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        env = deploy({"max": 2, "target_ongoing_requests": 2}, asks=Asks)
        calls = [env.service("asks").submit("ask", "hold", str(tmp_path / "lock")) for _ in range(4)]
        noted.wait("scaled", "to 2 replicas")
    assert {call.result(PATIENCE) for call in calls} == {0, 1}
