"""SAGE's classes, call syntaxes and tasks in other processes of a real cluster: the same as in one process."""

from __future__ import annotations

import os
import threading

import pytest

from sage_plugins import ServiceDeploymentConfig, ServiceFactory, ServiceTaskFactory, errors
from sage_plugins.compat import ActorWrapper, BaseService, MultiThreadRayServiceTask, RayServiceTask
from sage_shapes import SHAPES, LegacyKV, PlainKV, SagesFactory

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180), pytest.mark.usefixtures("cluster")]

PATIENCE = 60.0


def on_ray(**fields):
    return ServiceDeploymentConfig(target="remote_any", cpu_cores=0.01, **fields)


class Asking(BaseService):
    """Calls `kv` in every way that SAGE's programs have."""

    def process(self, key):
        return (
            self.call_service["kv"].get(key, timeout=PATIENCE),
            self.call_service("kv", key, method="get", timeout=PATIENCE),
            self.call_service_async["kv"].get(key).result(PATIENCE),
            self.call_service_async("kv", key, method="get").result(PATIENCE),
        )

    def caught(self, method):
        found = []
        for error_type in (RuntimeError, KeyError):
            try:
                self.call_service["kv"].lookup("missing") if method == "sync" else self.call_service_async["kv"].lookup(
                    "missing"
                ).result(PATIENCE)
            except error_type as error:
                found.append((type(error).__name__, error.args))
        return found

    def passes_on(self):
        return self.call_service["kv"].lookup("missing")

    def unknown(self):
        try:
            self.call_service["nothing"].get("k")
        except RuntimeError as error:
            return type(error).__name__


class KV(PlainKV):
    """With a method that raises, and something that cannot travel."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.told = threading.Event()

    def lookup(self, key):
        return self.data[key]

    def pid(self):
        return os.getpid()

    def wait(self):
        return self.told.wait(PATIENCE)

    def terminate(self):
        self.told.set()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_served_as_it_is(environments, shape):
    """Built from its factory in the replica's process; the settings of a factory travel with it."""
    env = environments("shapes")
    env.register_service_with_config("kv", shape, deployment_config=on_ray())
    assert env.call_service("kv", "k", 1, method="put", timeout=PATIENCE) is True
    assert env.call_service["kv"].get("k") == 1


def test_settings_of_a_foreign_factory_travel():
    """SAGE's own pickling of it loses them, and SAGE's own `create_service` cannot build the class."""
    factory = SagesFactory("kv", LegacyKV)
    factory.config = {"max_size": 7}
    with ServiceTaskFactory(factory, on_ray()).create_service_task() as task:
        assert task.call_method("put", "k", 1) is True
        stats = task.call_method("stats")
        assert (stats["max_size"], stats["service_name"], stats["request_count"]) == (7, "kv", 1)


def test_services_call_each_other_in_both_ways(environments):
    """From one process of the cluster to another, and errors keep both types all the way to the driver."""
    env = environments("calling")
    env.register_service_with_config("kv", KV, deployment_config=on_ray())
    env.register_service_with_config("asking", Asking, deployment_config=on_ray())
    env.deploy()
    env.call_service["kv"].put("k", 1)
    assert env.call_service("asking", "k", timeout=PATIENCE) == (1, 1, 1, 1)
    for method in ("sync", "async"):
        assert env.call_service["asking"].caught(method) == [("KeyError", ("missing",))] * 2
    assert env.call_service["asking"].unknown() == "ServiceNotFoundError"
    with pytest.raises(KeyError) as caught:
        env.service("asking").passes_on()
    assert isinstance(caught.value, RuntimeError)
    assert caught.value.args == ("missing",)
    with pytest.raises(RuntimeError) as caught:
        env.call_service["kv"].lookup("missing")
    assert isinstance(caught.value, KeyError)


def test_task_on_ray_has_the_surface_of_sages(cluster):
    """Methods, attributes, statistics and the wrapper."""
    with RayServiceTask(ServiceFactory("kv", KV), None, on_ray()) as task:
        wrapper = ActorWrapper(task)
        wrapper.start_running(PATIENCE)
        assert (wrapper.is_ray_actor(), wrapper.is_local(), wrapper.is_running) == (True, False, True)
        assert wrapper.call_method("pid") != os.getpid()
        assert wrapper.call_async("call_method", "put", "k", 1).result(PATIENCE) is True
        assert wrapper.get_attribute("data") == {"k": 1}
        wrapper.set_attribute("data", {"k": 2})
        assert wrapper.call_method("get", "k") == 2
        with pytest.raises(AttributeError, match="nothing"):
            wrapper.get_attribute("nothing")
        with pytest.raises(AttributeError, match="private"):
            wrapper.get_attribute("_own")
        with pytest.raises(errors.ResultNotSerializableError, match="lock"):
            wrapper.get_attribute("lock")
        with pytest.raises(KeyError):
            wrapper.call_method("lookup", "missing")
        before = task.get_statistics()
        assert (before["service_type"], before["request_count"], before["error_count"]) == ("RayServiceTask", 4, 1)
        assert before["actor_id"] == "kv#0"
        assert before["ray_node_id"] in {node.name for node in cluster.nodes.values()}
        wrapper.call_method("get", "k")
        assert task.get_statistics()["last_activity_time"] > before["last_activity_time"]


def test_terminate_reaches_the_instance_there():
    """Beside the call that runs, in the replica's process."""
    task = MultiThreadRayServiceTask(ServiceFactory("kv", KV), None, on_ray(thread_count=2))
    future = task.handle.submit("wait")
    while not future.running():
        threading.Event().wait(0.01)
    task.terminate()
    assert future.result(PATIENCE) is True
    assert task.state == "stopped"


def test_wrapper_kills_and_cleans_up():
    """The names of SAGE's wrapper: with a restart the service has another process, without it has none."""
    task = ServiceTaskFactory(ServiceFactory("kv", KV), on_ray()).create_service_task()
    wrapper = ActorWrapper(task)
    first = wrapper.call_method("pid")
    assert wrapper.kill_actor(no_restart=False) is True
    assert wrapper.call_method("pid") != first
    assert wrapper.cleanup_and_kill(PATIENCE) == (True, True)
    assert wrapper.state == "stopped"
    assert wrapper.kill_actor(no_restart=False) is False, "there is nothing to restart, and the log says so"
    other = ActorWrapper(ServiceTaskFactory(ServiceFactory("kv", KV), on_ray()).create_service_task())
    other.start_running(PATIENCE)
    assert other.kill_actor() is True
    assert other.state == "stopped"
