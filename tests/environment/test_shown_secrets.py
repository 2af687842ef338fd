"""No text that shows a service contains a secret of its configuration."""

from __future__ import annotations

import json
import textwrap
import traceback

import attrs
import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_files import read
from sage_plugins import Environment, ServiceDeploymentConfig, errors, hookimpl
from sage_plugins.config.service_config import plain
from sage_plugins.interfaces import QuietMonitor
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration

SECRETS = {
    "user_config": {"password": "swordfish-1", "database": {"secret_key": "swordfish-2"}, "tokens": 3},
    "options": {"quiet": {"api_token": "swordfish-3"}},
}


class Echo:
    def echo(self, value):
        return value


@attrs.frozen
class Options:
    """
    Options of the monitor.

    Attributes:
        api_token: A secret.
    """

    api_token: str = ""


class Quiet:
    """A plugin with a monitor whose options include a secret."""

    @hookimpl
    def sage_register_monitors(self):
        return [Registration("quiet", lambda _options: QuietMonitor(), "Does nothing", options=Options)]


@pytest.fixture
def registry():
    """The first-party plugins and the one with the secret."""
    return Registry.of(sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading, Quiet())


def _shown(env, name, config):
    """Yield each text that shows the service's configuration, with a name for it."""
    yield "repr of the configuration", repr(config)
    yield "str of the configuration", str(config)
    yield "get_service_status", repr(env.get_service_status(name))
    yield "status", json.dumps(env.status())
    yield "plan", env.plan().text(all_settings=True)
    yield "plan as JSON", env.plan().to_json()
    task = env.task(name)
    yield "task", repr(task)
    yield "composition", repr(task.composition)
    yield "replica", repr(task.composition.spec(0))
    yield "running", repr(env.running())


def test_shown(registry):
    """No text that shows a service contains a secret, while its configuration keeps it."""
    config = ServiceDeploymentConfig(monitors=["metrics", "quiet"], **SECRETS)
    with Environment("secrets", registry=registry) as env:
        env.register_service_with_config("echo", Echo, deployment_config=config)
        env.deploy()
        for what, text in _shown(env, "echo", config):
            assert "swordfish" not in text, what
        assert "(hidden)" in repr(config)
        assert "'tokens': 3" in repr(config)
    assert (plain(config.user_config), plain(config.options)) == (SECRETS["user_config"], SECRETS["options"])


@pytest.mark.parametrize(
    "register",
    [
        lambda env: env.register_service_with_config("echo", Echo, deployment_config=[SECRETS]),
        lambda env: env.register_service_with_config("echo", Echo, deployment_config={**SECRETS, "timeout": "swift"}),
        lambda env: env.register_service_with_config(
            "echo",
            Echo,
            deployment_config={"monitors": ["quiet"], "options": {"quiet": {"api_token": ["swordfish-4"]}}},
        ),
        lambda _env: ServiceDeploymentConfig(user_config=["swordfish-5"], secret={"swordfish-6": 1}),
    ],
)
def test_errors(register, registry):
    """The error about a refused configuration contains no secret."""

    def refused():
        with Environment("secrets", registry=registry) as env:
            register(env)
            env.deploy()

    with pytest.raises(errors.SageDeployError) as caught:
        refused()
    assert "swordfish" not in "".join(traceback.TracebackException.from_exception(caught.value).format_exception_only())


def test_file(tmp_path):
    """The configuration read from a file shows no secrets and no constructor arguments."""
    path = tmp_path / "services.yaml"
    path.write_text(
        textwrap.dedent("""
            services:
              echo:
                class: "echo:Echo"
                init: {args: [swordfish-7], kwargs: {token: swordfish-8}}
                user_config: {password: swordfish-1}
            options: {acme: {secret: swordfish-9}}
        """)
    )
    found = read(path)
    assert "swordfish" not in repr(found)
    assert found.services["echo"].kwargs == {"token": "swordfish-8"}
