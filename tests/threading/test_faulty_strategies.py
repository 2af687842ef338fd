"""Threading strategies that raise: errors name the strategy, and calls are still counted."""

from __future__ import annotations

import pytest

import sage_deploy_local
import sage_deploy_monitors
from sage_deploy_threading.pool import Single, ThreadOptions
from sage_plugins import ServiceDeploymentConfig, errors, hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration


class Echo:
    def echo(self, value):
        return value


class Unstarted:
    def start(self, seat):
        raise OSError("no permission")


class Silent(Single):
    def start(self, seat):
        runner = super().start(seat)
        runner.stats = self._raise
        return runner

    def _raise(self):
        raise OSError("no permission")


def unmade(_options):
    raise OSError("no permission")


@pytest.fixture
def deployed(environments):
    """Registers the service `svc` with a strategy that *create* makes, and returns its environment."""

    def make(create):
        class Plugin:
            @hookimpl
            def sage_register_threading_strategies(self):
                return [Registration("faulty", create, "Raises")]

        env = environments("home", registry=Registry.of(Plugin(), sage_deploy_local, sage_deploy_monitors))
        config = ServiceDeploymentConfig(threading_strategy="faulty", monitors=["metrics"])
        env.register_service_with_config("svc", Echo, deployment_config=config)
        return env

    return make


@pytest.mark.parametrize("create", [unmade, lambda _options: Unstarted()])
def test_strategy_that_cannot_start_is_named(deployed, create):
    """If a strategy cannot be made or started, the error names the strategy, not the target."""
    with deployed(create) as env, pytest.raises(errors.DeployError) as raised:
        env.deploy()
    assert "service 'svc': threading strategy 'faulty' from Plugin did not start: OSError" in str(raised.value)
    assert "target" not in str(raised.value)


def test_calls_are_counted_although_the_runner_cannot_say_what_it_does(deployed, caplog):
    """If `Runner.stats` raises, the log names the strategy once, and the status still has the counts of calls."""
    with deployed(lambda _options: Silent(ThreadOptions())) as env:
        for number in range(3):
            env.service("svc").echo(number)
        for _ in range(2):
            assert env.get_service_status("svc")["metrics"].request_count == 3
    (record,) = caplog.records
    assert "threading strategy 'faulty' from Plugin does not say what svc#0 does" in record.getMessage()
