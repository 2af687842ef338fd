"""Registering starts nothing and refuses what is wrong; `deploy` starts what is registered."""

from __future__ import annotations

import asyncio
import threading

import pytest

from given_arguments import Given
from sage_plugins import (
    ServiceDeploymentConfig,
    ServiceFactory,
    errors,
)

# -- registering -------------------------------------------------------------------------------------------------------


def test_registering_gives_the_factory_and_starts_nothing(env, given):
    """All `register_*` methods return the factory and start nothing."""
    config = ServiceDeploymentConfig(timeout=5.0)
    threads = threading.active_count()
    plain = env.register_service("plain", given, 1, word="w")
    configured = env.register_service_with_config("configured", given, 2, deployment_config=config, word="v")
    assert isinstance(plain, ServiceFactory)
    assert (plain.service_name, plain.service_class) == ("plain", given)
    assert (plain.service_args, plain.service_kwargs) == ((1,), {"word": "w"})
    assert (configured.service_args, configured.service_kwargs) == ((2,), {"word": "v"})
    assert env.service_factories == {"plain": plain, "configured": configured}
    assert env.register_service_factory("again", plain) is plain
    assert (given.made, threading.active_count()) == (0, threads)


def test_constructor_gets_all_other_arguments(env, given):
    """`register_service` passes all arguments to the constructor, even those named like settings."""
    words = {
        "timeout": 5,
        "replicas": 3,
        "thread_count": 2,
        "name": "n",
        "deployment_config": "own",
        "config": {},
        "self_": 1,
        "service_name": "s",
        "service_class": int,
    }
    env.register_service("svc", given, "a", 2, **words)
    assert env.service("svc").given() == (("a", 2), words)
    assert env.get_service_status("svc")["deployment_config"] == ServiceDeploymentConfig()


def test_constructor_beside_a_configuration_gets_the_rest(env, given):
    """`register_service_with_config` passes all other arguments to the constructor."""
    config = ServiceDeploymentConfig(timeout=5.0)
    env.register_service_with_config("svc", given, "a", deployment_config=config, timeout="the constructor's")
    assert env.service("svc").given() == (("a",), {"timeout": "the constructor's"})
    assert env.get_service_status("svc")["deployment_config"] is config


def test_default_deployment_is_local_and_single(env, given):
    """Without a configuration, a service is one replica in this process that runs one call at a time."""
    env.register_service("svc", given)
    env.deploy()
    config = env.get_service_status("svc")["deployment_config"]
    assert (config.target, config.threading_strategy, config.replicas) == ("local", "single", 1)
    assert env.service("svc").thread() is env.service("svc").thread()


def test_last_registration_before_deployment_counts(env, given):
    """Registering a name again before the deployment replaces it and its configuration, for existing handles too."""
    env.register_service_with_config("svc", given, 1, deployment_config=ServiceDeploymentConfig(timeout=1.0))
    handle = env.service("svc")
    env.get_service_status("svc")
    env.register_service("svc", given, 2)
    assert handle.given() == ((2,), {})
    assert env.get_service_status("svc")["deployment_config"].timeout == 30.0
    assert given.made == 1


def test_deployed_service_is_registered_again(env, given):
    """
    Registering a deployed service again changes nothing until `apply`.

    `plan` shows the difference, `deploy` ignores it.
    """
    env.register_service("svc", given, 1)
    env.deploy()
    env.register_service_with_config("svc", given, 2, word="w", deployment_config={"timeout": "5s"})
    handle = env.service("svc")
    assert handle.given() == ((1,), {})
    (service,) = env.plan().services
    assert service.action == "change"
    assert {change.key for change in service.changes} == {"timeout", "init.args.0", "init.kwargs.word"}
    env.deploy()
    assert (handle.given(), given.made) == (((1,), {}), 1)
    env.apply()
    assert (handle.given(), given.made) == (((2,), {"word": "w"}), 2)
    assert env.get_service_status("svc")["deployment_config"].timeout == 5.0
    assert not env.plan().has_changes


def test_bad_registration_of_a_deployed_service(env, given):
    """An invalid registration of a deployed service is refused, and the service keeps running."""
    env.register_service("svc", given, 1)
    env.deploy()
    env.register_service_with_config("svc", given, deployment_config={"target": "nowhere"})
    with pytest.raises(errors.UnknownPluginError):
        env.apply()
    assert env.service("svc").given() == ((1,), {})


@pytest.mark.parametrize("timeout", ["svc", True])
def test_deploy_takes_seconds_and_no_name(env, given, timeout):
    """`deploy` refuses a name or a bool as timeout, says what it does, and starts nothing."""
    env.register_service("svc", given)
    with pytest.raises(TypeError, match="starts all services that are registered"):
        env.deploy(timeout)
    assert given.made == 0


def test_services_registered_later_are_deployed_later(env, given):
    """`deploy` starts services registered since the last time, and leaves the others alone."""
    env.register_service("first", given)
    env.deploy()
    env.register_service("second", given)
    env.deploy()
    assert given.made == 2
    assert env.get_service_status("second")["state"] == "ready"


@pytest.mark.parametrize(
    ("name", "cls"), [("", Given), (None, Given), (5, Given), ("svc", Given()), ("svc", None), ("svc", "Given")]
)
def test_name_and_class_are_checked_when_registered(env, name, cls):
    """`register_service` refuses a name or a class of the wrong type."""
    with pytest.raises(ValueError, match="service"):
        env.register_service(name, cls)
    assert env.service_factories == {}


@pytest.mark.parametrize("config", [None, [], "local"])
def test_configuration_is_checked_when_registered(env, given, config):
    """`register_service_with_config` refuses a configuration of the wrong type."""
    with pytest.raises(errors.ConfigError, match="deployment_config"):
        env.register_service_with_config("svc", given, deployment_config=config)


def test_foreign_factory(env):
    """Any object with `service_name`, `service_class` and `create_service(ctx)` is a factory."""
    seen = []

    class Foreign:
        service_name = "foreign"
        service_class = Given

        def create_service(self, ctx):
            seen.append((ctx.name, threading.current_thread()))
            return Given("from the factory")

    env.register_service_factory("foreign", Foreign())
    assert env.service("foreign").given() == (("from the factory",), {})
    ((name, thread),) = seen
    assert name == "foreign"
    assert thread is env.service("foreign").thread()


def test_factory_serves_under_the_name_that_it_is_registered_by(env):
    """A factory serves under the name that it is registered by, and can be registered twice."""

    class Named:
        def name(self):
            return self.ctx.name

    factory = ServiceFactory("made-as", Named)
    env.register_service_factory("first", factory)
    env.register_service_factory("second", factory)
    env.deploy()
    assert [env.service(name).name() for name in ("first", "second")] == ["first", "second"]
    assert env.get_service_status("second")["service_name"] == "second"


@pytest.mark.parametrize("missing", ["service_name", "service_class", "create_service"])
def test_incomplete_factory_is_refused(env, missing):
    """A factory without one of its parts is refused."""
    parts = {"service_name": "svc", "service_class": Given, "create_service": lambda ctx: Given()}
    del parts[missing]
    with pytest.raises(TypeError, match=missing):
        env.register_service_factory("svc", type("Foreign", (), parts)())


def test_foreign_factory_that_raises(env):
    """If a factory raises, the deployment fails with its error."""

    class Foreign:
        service_name = "foreign"
        service_class = Given

        def create_service(self, ctx):
            raise LookupError("no model")

    env.register_service_factory("foreign", Foreign())
    with pytest.raises(errors.DeployError, match="LookupError: no model"):
        env.deploy()


# -- services that call services ---------------------------------------------------------------------------------------


def test_adeploy_leaves_the_loop_free(env, gate):
    """`adeploy` does not block the loop while constructors run."""

    class Slow:
        def __init__(self):
            gate()

    env.register_service("svc", Slow)

    async def main():
        deploying = asyncio.ensure_future(env.adeploy())
        await asyncio.to_thread(gate.wait_entered)
        gate.open()
        await deploying

    asyncio.run(main())
    assert env.get_service_status("svc")["state"] == "ready"


def test_adeploy_raises_what_deploy_raises(env):
    """`adeploy` raises the same error as `deploy`."""

    class Failing:
        def __init__(self):
            raise ValueError("no database")

    env.register_service("svc", Failing)
    with pytest.raises(errors.DeployError, match="no database"):
        asyncio.run(env.adeploy())
