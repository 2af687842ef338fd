"""Tasks as SAGE's programs use them: names, attributes, statistics, request dictionaries and the wrapper."""

from __future__ import annotations

import queue
from concurrent.futures import Future

import pytest

import sage_plugins.compat
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins import (
    Environment,
    ServiceContext,
    ServiceDeploymentConfig,
    ServiceFactory,
    ServiceTask,
    ServiceTaskFactory,
    batch_of,
    errors,
)
from sage_plugins.compat import (
    ActorWrapper,
    AsyncRayServiceTask,
    AsyncServiceTask,
    BaseServiceTask,
    LocalServiceTask,
    MultiThreadLocalServiceTask,
    MultiThreadRayServiceTask,
    RayServiceTask,
    ThreadPoolRayServiceTask,
    ThreadPoolServiceTask,
)

PATIENCE = 20.0


class KV:
    limit = 5

    def __init__(self):
        self.data = {}
        self._own = "s"

    def put(self, key, value):
        self.data[key] = value
        return True

    async def aput(self, key, value):
        self.data[key] = value
        return True

    def get(self, key):
        return self.data[key]

    @property
    def size(self):
        return len(self.data)

    def other(self):
        return self.ctx.call_service["other"].get("k")


class Batched(KV):
    @batch_of("put")
    def put_many(self, keys, values):
        self.data.update(zip(keys, values, strict=True))
        return [True] * len(keys)


@pytest.fixture
def factory():
    return ServiceFactory("kv", KV)


@pytest.fixture
def task(factory):
    with LocalServiceTask(factory) as made:
        made.start_running()
        yield made


LOCAL = {
    LocalServiceTask: "single",
    MultiThreadLocalServiceTask: "multi",
    ThreadPoolServiceTask: "pool",
    AsyncServiceTask: "async",
}
REMOTE = {
    RayServiceTask: "single",
    MultiThreadRayServiceTask: "multi",
    ThreadPoolRayServiceTask: "pool",
    AsyncRayServiceTask: "async",
}


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sage_plugins.compat.__all__)
def test_every_name_is_there(name):
    """Each public name of the package can be loaded."""
    assert getattr(sage_plugins.compat, name).__name__ == {"BaseServiceTask": "ServiceTask"}.get(name, name)
    assert name in dir(sage_plugins.compat)


def test_unknown_name_is_none():
    """An unknown name raises AttributeError."""
    with pytest.raises(AttributeError, match="KVServiceTask"):
        sage_plugins.compat.KVServiceTask  # noqa: B018 - the lookup is the test


@pytest.mark.parametrize(("door", "strategy"), LOCAL.items(), ids=lambda value: getattr(value, "__name__", value))
def test_name_sets_target_and_strategy(factory, door, strategy):
    """Each task class sets a target and a strategy, and serves."""
    task = door(factory, None, ServiceDeploymentConfig(timeout=PATIENCE))
    assert isinstance(task, BaseServiceTask)
    assert (task.state, task.composition.target.id, task.composition.strategy.id) == ("pending", "local", strategy)
    assert task.composition.config.timeout == PATIENCE
    with task:
        assert task.call_method("put", "k", 1) is True
        assert task.call_method("get", "k") == 1
        assert task.get_statistics()["service_type"] == door.__name__
    assert task.state == "stopped"


@pytest.mark.parametrize(("door", "strategy"), REMOTE.items(), ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.parametrize(
    ("target", "config"),
    [
        ("remote_any", None),
        ("remote_specific", ServiceDeploymentConfig(target="remote_specific", target_nodes=["node-1"])),
    ],
)
def test_name_sets_a_remote_target_unless_there_is_one(factory, door, strategy, target, config):
    """A remote task class sets `remote_any`, unless the configuration names a remote target. Nothing starts."""
    task = door(factory, None, config)
    assert (task.state, task.composition.target.id, task.composition.strategy.id) == ("pending", target, strategy)


@pytest.mark.parametrize("door", [MultiThreadLocalServiceTask, MultiThreadRayServiceTask])
def test_tasks_of_many_threads_take_a_pool_too(factory, door):
    """The tasks for many threads accept the `pool` strategy too."""
    config = ServiceDeploymentConfig(threading_strategy="pool", thread_pool_size=3)
    assert door(factory, None, config).composition.strategy.id == "pool"


@pytest.mark.parametrize(
    ("door", "settings", "named"),
    [
        (LocalServiceTask, {"target": "remote_any"}, "target 'remote_any'"),
        (LocalServiceTask, {"threading_strategy": "pool"}, "threading_strategy 'pool'"),
        (AsyncServiceTask, {"threading_strategy": "multi"}, "threading_strategy 'multi'"),
        (RayServiceTask, {"threading_strategy": "inline"}, "threading_strategy 'inline'"),
    ],
)
def test_name_that_says_otherwise_than_the_configuration_is_refused(factory, door, settings, named):
    """
    A configuration that contradicts the task class is refused.

    The error names both and suggests ServiceTaskFactory.
    """
    with pytest.raises(errors.ConfigError, match=named) as caught:
        door(factory, None, ServiceDeploymentConfig(**settings))
    assert door.__name__ in str(caught.value)
    assert "ServiceTaskFactory" in str(caught.value)


def test_task_finds_other_services_through_its_context(factory):
    """The second argument is a context, through which the task finds other services."""
    with Environment("test") as env:
        env.register_service("other", KV)
        env.call_service["other"].put("k", "there")
        with LocalServiceTask(factory, ServiceContext("outer", 0, env.service)) as task:
            assert task.call_method("other") == "there"


@pytest.mark.parametrize(("remote", "target"), [(False, "local"), (True, "remote_any")])
def test_task_factory_of_sage(factory, remote, target):
    """`ServiceTaskFactory(factory, remote=...)` makes a local or a remote task."""
    task = ServiceTaskFactory(factory, remote=remote).create_service_task()
    assert type(task) is ServiceTask
    assert task.composition.target.id == target
    assert ActorWrapper(task).is_ray_actor() is remote


# -- the surface of a task ---------------------------------------------------------------------------------------------


def test_methods_are_called_by_name(task):
    """`call_method` raises what the method raises, and AttributeError for a name that is not served."""
    assert task.call_method("put", "k", value=1) is True
    with pytest.raises(KeyError) as caught:
        task.call_method("get", "missing")
    assert type(caught.value) is KeyError
    with pytest.raises(AttributeError, match="gett"):
        task.call_method("gett", "k")
    with pytest.raises(AttributeError):
        task.call_method("_own")


def test_attributes_are_read_and_set(task):
    """Attributes of the instance can be read and set, private ones cannot."""
    task.call_method("put", "k", 1)
    assert task.get_attribute("data") == {"k": 1}
    assert (task.get_attribute("size"), task.get_attribute("limit")) == (1, 5)
    task.set_attribute("limit", 6)
    assert task.get_attribute("limit") == 6
    assert KV.limit == 5
    with pytest.raises(AttributeError, match="nothing"):
        task.get_attribute("nothing")
    with pytest.raises(AttributeError):
        task.set_attribute("size", 3)
    for private in ("_own", "__class__", "ctx.name", 3):
        with pytest.raises(AttributeError):
            task.get_attribute(private)
    with pytest.raises(AttributeError, match="private"):
        task.set_attribute("_own", 1)


def test_attributes_are_read_while_a_method_runs(gate):
    """Attributes can be read while the only thread runs a method."""

    class Busy:
        state = "idle"

        def run(self, gate):
            self.state = "busy"
            return gate()

    with LocalServiceTask(ServiceFactory("busy", Busy)) as task:
        future = task.handle.submit("run", gate)
        gate.wait_entered()
        assert task.get_attribute("state") == "busy"
        gate.open()
        future.result(PATIENCE)


def test_attribute_is_set_of_every_replica(factory):
    """`set_attribute` sets the attribute on every replica."""
    config = ServiceDeploymentConfig(replicas=3, load_balancing=True, load_balancer="round_robin")
    with LocalServiceTask(factory, None, config) as task:
        task.start_running()
        task.set_attribute("data", {"k": "same"})
        assert [task.call_method("get", "k") for _ in range(6)] == ["same"] * 6


def test_attributes_of_what_does_not_run(factory):
    """Before the start and after the stop there is no instance, and attributes raise DeployError."""
    task = LocalServiceTask(factory)
    for _ in range(2):
        with pytest.raises(errors.DeployError, match="has no instance"):
            task.get_attribute("data")
        with pytest.raises(errors.DeployError, match="has no instance"):
            task.set_attribute("data", {})
        if task.state == "pending":
            task.start_running()
            assert task.get_attribute("data") == {}
            task.stop()


def test_a_task_says_who_it_is(factory):
    """A task has its service's name, its factory, a logger and its state."""
    task = LocalServiceTask(factory)
    assert (task.name, task.service_name, task.service_factory, task.get_object()) == ("kv", "kv", factory, task)
    assert task.logger.name == "sage.service.kv"
    assert task.is_running is False
    with task as entered:
        assert entered is task
        task.start_running()
        assert task.is_running is True
    assert task.is_running is False


# -- statistics --------------------------------------------------------------------------------------------------------

KEYS = {
    "service_name",
    "service_type",
    "is_running",
    "request_count",
    "error_count",
    "last_activity_time",
    "service_class",
    "has_service_context",
    "request_queue_available",
    "request_queue_id",
    "request_queue_type",
    "response_queues_count",
    "response_queue_names",
}


def test_statistics_have_sages_keys(task):
    """`get_statistics` has all of SAGE's keys, with the service's counts."""
    task.call_method("put", "k", 1)
    with pytest.raises(KeyError):
        task.call_method("get", "missing")
    found = task.get_statistics()
    assert set(found) == KEYS
    assert (found["service_name"], found["service_type"], found["service_class"]) == ("kv", "LocalServiceTask", "KV")
    assert (found["request_count"], found["error_count"], found["is_running"]) == (2, 1, True)
    task.stop()
    stopped = task.get_statistics()
    assert (stopped["request_count"], stopped["error_count"], stopped["is_running"]) == (2, 1, False)
    assert stopped["request_queue_available"] is False


@pytest.mark.parametrize("method", ["put", "aput", "put_many"])
@pytest.mark.parametrize("strategy", ["single", "multi", "pool", "async", "inline"])
def test_last_activity_is_when_a_call_ended_last(strategy, method, monkeypatch):
    """
    `last_activity_time` is set from the start and changes only when a call ends, whether method, coroutine or batch.
    """
    clock = VirtualClock()
    monkeypatch.setattr("sage_plugins.deployment.status.wall_clock", clock.monotonic)
    if method == "put_many":
        config = ServiceDeploymentConfig(threading_strategy=strategy, batch_size=2, batch_wait=0, timeout=None)
    else:
        config = ServiceDeploymentConfig(threading_strategy=strategy, timeout=None)
    factory = ServiceFactory("kv", Batched if method == "put_many" else KV)
    task = ServiceTaskFactory(factory, config, clock=clock).create_service_task()
    called = "put" if method == "put_many" else method
    with task:
        task.start_running()
        made = task.get_statistics()["last_activity_time"]
        clock.advance(100)
        assert task.get_statistics()["last_activity_time"] == made
        task.call_method(called, "k", 1)
        clock.advance(100)
        assert task.get_statistics()["last_activity_time"] == made + 100
        clock.advance(100)
        assert task.get_statistics()["last_activity_time"] == made + 100
        task.handle.call(called, "k", 2)
        assert task.get_statistics()["last_activity_time"] == made + 300


# -- dictionaries ------------------------------------------------------------------------------------------------------


def response_to(task, request):
    responses = queue.SimpleQueue()
    task.handle_request({"response_queue": responses, **request})
    return responses.get(timeout=PATIENCE)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"request_id": 1}, "no method_name"),
        ({"request_id": 1, "method_name": ""}, "no method_name"),
        ({"request_id": 1, "method_name": 3}, "no method_name"),
        ({"request_id": 1, "method_name": "get", "args": "k"}, "args"),
        ({"request_id": 1, "method_name": "get", "kwargs": ["k"]}, "kwargs"),
        ({"method_name": "get", "args": ("missing",)}, "missing"),
    ],
)
def test_request_with_something_wrong_is_answered(task, request_, words):
    """A malformed request gets an error response."""
    response = response_to(task, request_)
    assert (response["success"], response["result"], response["request_id"]) == (
        False,
        None,
        request_.get("request_id"),
    )
    assert words in response["error"]


def test_request_without_id_is_answered(task):
    """A request without an ID is answered."""
    response = response_to(task, {"method_name": "put", "args": ["k", 1], "kwargs": None})
    assert (response["success"], response["result"], response["request_id"]) == (True, True, None)


@pytest.mark.parametrize("request_", [{}, {"response_queue": None}, {"response_queue": "queue_name"}, None, 3])
def test_request_without_a_queue_is_refused(task, request_):
    """A request without a response queue raises ConfigError."""
    with pytest.raises(errors.ConfigError, match="response_queue"):
        task.handle_request(request_)


# -- the wrapper -------------------------------------------------------------------------------------------------------


def test_wrapper_passes_on_what_the_task_has(task):
    """The wrapper passes on the task's public attributes and methods."""
    wrapper = ActorWrapper(task)
    assert wrapper.call_method("put", "k", 1) is True
    assert (wrapper.is_running, wrapper.service_name, wrapper.get_attribute("data")) == (True, "kv", {"k": 1})
    assert wrapper.get_object() is task
    assert (wrapper.is_local(), wrapper.is_ray_actor()) == (True, False)
    assert "local" in repr(wrapper)
    with pytest.raises(AttributeError):
        wrapper._config  # noqa: B018 - the lookup is the test
    with pytest.raises(AttributeError, match="nothing"):
        wrapper.nothing  # noqa: B018 - the lookup is the test
    wrapper.note = "n"
    assert task.note == "n"


def test_wrapper_calls_without_waiting(task, gate):
    """`call_async` of the wrapper returns a future for any method of the task."""

    class Held(KV):
        def hold(self, gate):
            return gate("held")

    with LocalServiceTask(ServiceFactory("held", Held)) as held:
        wrapper = ActorWrapper(held)
        future = wrapper.call_async("call_method", "hold", gate)
        gate.wait_entered()
        assert isinstance(future, Future)
        assert not future.done()
        gate.open()
        assert future.result(PATIENCE) == "held"
        assert wrapper.call_async("get_statistics").result(PATIENCE)["service_name"] == "held"
        with pytest.raises(errors.DeployError):
            ActorWrapper(LocalServiceTask(ServiceFactory("kv", KV))).call_async("get_attribute", "data").result(
                PATIENCE
            )
        with pytest.raises(AttributeError, match="nothing"):
            wrapper.call_async("nothing")
        with pytest.raises(AttributeError, match="not a callable"):
            wrapper.call_async("service_name")


def test_wrapper_of_something_local_has_nothing_to_kill(task):
    """`kill_actor` of a local task returns False, and the task goes on."""
    wrapper = ActorWrapper(task)
    assert wrapper.kill_actor() is False
    assert wrapper.cleanup_and_kill() == (False, False)
    assert task.is_running
    other = ActorWrapper([1, 2])
    assert (other.count(1), other.is_local(), other.kill_actor()) == (1, True, False)
