"""Service classes written for SAGE work unchanged: every shape, and what each expects from its surroundings."""

from __future__ import annotations

import threading

import pytest

from sage_plugins import Environment, ServiceDeploymentConfig, ServiceFactory, errors
from sage_plugins.compat import BaseService
from sage_shapes import SHAPES, BasedKV, LegacyKV, NoSuperKV, PlainKV, SagesFactory

PATIENCE = 20.0

STRATEGIES = ["single", "multi", "pool", "async", "inline"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_served_as_it_is(env, shape, strategy):
    """A class of every shape can be registered as in SAGE and called in both spellings."""
    config = ServiceDeploymentConfig(threading_strategy=strategy)
    env.register_service_with_config("kv", shape, deployment_config=config)
    assert env.call_service("kv", "k", 1, method="put", timeout=PATIENCE) is True
    assert env.call_service["kv"].get("k") == 1


@pytest.mark.parametrize("shape", [BasedKV, NoSuperKV])
def test_base_class_knows_the_service_in_the_constructor(env, shape):
    """With SAGE's base class, `name`, `logger` and `ctx` are set before `__init__` runs."""
    env.register_service("kv", shape)
    env.service("kv").get("k")
    assert env.task("kv").get_attribute("seen") == ("kv", "sage.service.kv", "kv")


def test_base_class_works_without_a_deployment():
    """Without a deployment the base class works as in a unit test, and calls raise SAGE's RuntimeError."""
    service = PlainKV.__new__(NoSuperKV)
    assert (service.name, service.logger.name, service.ctx) == ("NoSuperKV", "sage.service.NoSuperKV", None)
    for caller in ("call_service", "call_service_async"):
        with pytest.raises(RuntimeError, match="Service context not initialized"):
            getattr(service, caller)
    for step in ("setup", "start", "stop", "cleanup"):
        assert getattr(service, step)() is None


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_services_with_the_base_class_call_each_other(env, strategy):
    """`self.call_service` of the base class works in both spellings, and errors are RuntimeErrors as in SAGE."""

    class Asking(BaseService):
        def process(self, key):
            first = self.call_service["kv"].get(key, timeout=PATIENCE)
            second = self.call_service("kv", key, method="get")
            third = self.call_service_async["kv"].get(key).result(PATIENCE)
            try:
                self.call_service["missing"].get(key)
            except RuntimeError as error:
                return first, second, third, "missing" in str(error)

    env.register_service("kv", PlainKV)
    config = ServiceDeploymentConfig(threading_strategy=strategy)
    env.register_service_with_config("asking", Asking, deployment_config=config)
    env.call_service["kv"].put("k", 1)
    assert env.call_service("asking", "k") == (1, 1, 1, True)


def test_base_class_of_2025_gets_what_it_indexes(env):
    """SAGE's `BaseService` of 2025, whose property returns `self.ctx.call_service()`, works."""

    class OldBase:
        @property
        def call_service(self):
            return self.ctx.call_service()

        @property
        def call_service_async(self):
            return self.ctx.call_service_async()

    class Asking(OldBase):
        def process(self, key):
            future = self.call_service_async["kv"].get(key, timeout=PATIENCE)
            return self.call_service["kv"].get(key), future.result(PATIENCE)

    env.register_service("kv", PlainKV)
    env.register_service("asking", Asking)
    env.call_service["kv"].put("k", 1)
    assert env.call_service("asking", "k") == (1, 1)
    for caller in (env.call_service, env.call_service_async):
        with pytest.raises(TypeError, match="name the service"):
            caller(method="get")


# -- hooks -------------------------------------------------------------------------------------------------------------


def diary_class(base, *hooks):
    """Return a class that records which of its hooks ran, and the record."""
    steps = []

    def step(name):
        return lambda _self: steps.append(name)

    return type("Diary", base, {**{name: step(name) for name in hooks}, "ping": lambda _self: "pong"}), steps


@pytest.mark.parametrize("base", [(), (BaseService,)], ids=["plain", "BaseService"])
@pytest.mark.parametrize(
    ("hooks", "expected"),
    [
        (("setup", "start", "stop", "cleanup"), ["setup", "start", "stop", "cleanup"]),
        (("setup", "start_running", "stop", "close"), ["setup", "start_running", "stop", "close"]),
        (("start_running", "start", "cleanup", "close"), ["start_running", "cleanup"]),
        ((), []),
    ],
)
def test_hooks_run_once_each_in_sages_order(base, hooks, expected):
    """Each hook runs once in SAGE's order. `start_running` wins over `start`, and `cleanup` over `close`."""
    cls, steps = diary_class(base, *hooks)
    with Environment("test") as env:
        env.register_service("svc", cls)
        assert env.call_service("svc", method="ping") == "pong"
        task = env.task("svc")
    task.cleanup()
    task.cleanup()
    assert steps == expected


def test_close_is_not_run_behind_an_own_cleanup(env):
    """If `cleanup` calls the inherited one and then `close`, `close` runs once."""
    steps = []

    class Closing(BaseService):
        def cleanup(self):
            super().cleanup()
            self.close()

        def close(self):
            steps.append("close")

        def ping(self):
            return "pong"

    env.register_service("svc", Closing)
    env.call_service("svc", method="ping")
    env.close()
    assert steps == ["close"]


def test_coroutine_close_is_run_behind_the_base_class(env):
    """An async `close` runs when the base class's `cleanup` calls it."""
    steps = []

    class Closing(BaseService):
        async def close(self):
            steps.append("close")

        def ping(self):
            return "pong"

    env.register_service("svc", Closing)
    env.call_service("svc", method="ping")
    env.close()
    assert steps == ["close"]


@pytest.mark.parametrize("strategy", ["single", "multi", "pool"])
def test_terminate_reaches_the_instance_beside_its_calls(env, strategy):
    """`task.terminate()` calls the instance's `terminate` while a method runs, then stops the service."""

    class Endless:
        def __init__(self):
            self.told = threading.Event()

        def wait(self):
            return self.told.wait(PATIENCE)

        def terminate(self):
            self.told.set()

    config = ServiceDeploymentConfig(threading_strategy=strategy)
    env.register_service_with_config("svc", Endless, deployment_config=config)
    future = env.call_service_async["svc"].wait()
    env.task("svc").terminate()
    assert future.result(PATIENCE) is True
    assert env.task("svc").state == "stopped"


def test_terminate_that_raises_is_logged_and_the_service_stops(env, caplog):
    """If `terminate` raises, the error is logged and the service stops."""

    class Failing(PlainKV):
        def terminate(self):
            msg = "will not"
            raise ValueError(msg)

    env.register_service("svc", Failing)
    env.call_service["svc"].get("k")
    env.task("svc").terminate()
    assert "will not" in caplog.text
    assert env.task("svc").state == "stopped"


# -- constructors that take their factory ------------------------------------------------------------------------------


def test_constructor_gets_its_factory_and_context(env):
    """A constructor gets `service_factory` and `ctx`, and `service_name` is set before it runs."""
    factory = env.register_service("kv", LegacyKV)
    env.call_service["kv"].get("k")
    task = env.task("kv")
    assert task.get_attribute("seen") == ("kv", "kv", True)
    assert task.get_attribute("config") == {"max_size": 10}
    assert task.service_factory is factory


def test_settings_that_hang_on_the_factory_are_read(env):
    """Settings in `factory.config` reach the instance, as with SAGE's own factory functions."""
    factory = env.register_service("kv", LegacyKV)
    factory.config = {"max_size": 5}
    stats = env.call_service["kv"].stats()
    assert (stats["max_size"], stats["service_name"]) == (5, "kv")


def test_statistics_of_the_instance_count(env):
    """`self.get_statistics()` counts the calls that have ended; without the `metrics` monitor it returns 0."""
    env.register_service("kv", LegacyKV)
    env.call_service["kv"].put("k", 1)
    with pytest.raises(TypeError):
        env.call_service["kv"].get()
    stats = env.call_service["kv"].stats()
    assert (stats["request_count"], stats["error_count"]) == (2, 1)
    quiet = ServiceDeploymentConfig(monitors=[])
    env.register_service_with_config("quiet", LegacyKV, deployment_config=quiet)
    env.call_service["quiet"].put("k", 1)
    assert env.call_service["quiet"].stats()["request_count"] == 0


def test_class_keeps_its_own_get_statistics(env):
    """A class's own `get_statistics` is kept."""

    class Own(LegacyKV):
        def get_statistics(self):
            return {"mine": True}

    env.register_service("kv", Own)
    assert env.call_service["kv"].stats() == {"mine": True, "max_size": 10}


def test_factory_that_is_given_is_not_replaced(env):
    """A `service_factory` that the caller passes is not replaced."""

    class Takes:
        def __init__(self, service_factory, extra=None):
            self.given = (service_factory, extra)

        def ask(self):
            return self.given

    env.register_service("first", Takes, "mine", 1)
    env.register_service("second", Takes, service_factory="mine", extra=1)
    env.register_service("third", Takes, extra=1)
    assert env.call_service["first"].ask() == ("mine", 1)
    assert env.call_service["second"].ask() == ("mine", 1)
    given, extra = env.call_service["third"].ask()
    assert (given is env.service_factories["third"], extra) == (True, 1)


def test_slots_without_place_do_not_hinder_a_factory(env):
    """A class whose `__slots__` have no place for SAGE's attributes still gets its factory."""

    class Slotted:
        __slots__ = ("factory",)

        def __init__(self, service_factory):
            self.factory = service_factory

        def ask(self):
            return self.factory.service_name

    env.register_service("kv", Slotted)
    assert env.call_service["kv"].ask() == "kv"


@pytest.mark.parametrize("shape", [PlainKV, BasedKV, NoSuperKV])
def test_foreign_factory_builds_by_itself(env, shape):
    """A foreign factory builds the instance itself, and is returned unchanged."""
    factory = SagesFactory("kv", shape, ("redis",))
    assert env.register_service_factory("kv", factory) is factory
    assert env.service_factories["kv"] is factory
    env.call_service["kv"].put("k", 1)
    assert env.call_service["kv"].get("k") == 1
    assert env.task("kv").get_attribute("backend") == "redis"


def test_foreign_factory_that_cannot_build_its_class_is_helped(env):
    """
    A factory of SAGE's `create_kv_service_factory`, which cannot build its class, works here and keeps its settings.
    """
    factory = SagesFactory("kv", LegacyKV)
    factory.config = {"max_size": 7}
    with pytest.raises(TypeError):
        factory.create_service(None)

    assert env.register_service_factory("kv", factory) is factory

    assert env.call_service["kv"].put("k", 1) is True
    assert env.call_service["kv"].stats()["max_size"] == 7
    with pytest.raises(errors.MethodNotFoundError):
        env.call_service["kv"].config()


def test_class_of_a_file_gets_its_factory(env, tmp_path, monkeypatch):
    """A class named in a file gets `service_factory` and `ctx`; other missing arguments are still an error."""
    (tmp_path / "legacy_services.py").write_text(
        "class KV:\n"
        "    def __init__(self, service_factory, ctx):\n"
        "        self.given = (service_factory.service_name, ctx.name)\n"
        "    def ask(self):\n"
        "        return self.given\n"
        "class Wants(KV):\n"
        "    def __init__(self, service_factory, size):\n"
        "        self.size = size\n"
    )
    (tmp_path / "services.yaml").write_text(
        "services:\n  kv:\n    class: legacy_services:KV\n  wants:\n    class: legacy_services:Wants\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    env.load_service_deployment_config(tmp_path / "services.yaml")
    assert [(problem.id, "'size'" in problem.message) for problem in env.check()] == [("E704", True)]
    assert env.call_service["kv"].ask() == ("kv", "kv")


def test_our_factory_makes_instances_without_a_deployment():
    """`create_service()` without a context works, as in a unit test."""
    factory = ServiceFactory("kv", LegacyKV)
    instance = factory.create_service()
    assert (instance.service_name, instance.ctx, instance.put("k", 1)) == ("kv", None, True)
