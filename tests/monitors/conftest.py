"""Shared fixtures for tests of monitors: services that `health` watches in virtual time."""

from __future__ import annotations

import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins import ServiceDeploymentConfig
from sage_plugins.hookspecs import hookimpl
from sage_plugins.interfaces import QuietMonitor
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration
from ward import INTERVAL, TIMEOUT, Answers, Both, Ward


@pytest.fixture
def ward(environments, until):
    """Deploys a service in virtual time, watched by `health`, and waits for the first checks."""

    def make(cls=Both, *, replicas=1, strategy="single", monitors=("health", "noted"), **config):
        events, answers, clock = [], Answers(), VirtualClock()

        class Noted(QuietMonitor):
            event = staticmethod(events.append)

        class Plugin:
            @hookimpl
            def sage_register_monitors(self):
                return [Registration("noted", lambda _: Noted(), "notes")]

        registry = Registry.of(
            sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading, Plugin()
        )
        env = environments("ward", registry=registry, clock=clock)
        config = ServiceDeploymentConfig(
            threading_strategy=strategy,
            replicas=replicas,
            load_balancing=replicas > 1,
            monitors=monitors,
            health_check_interval=INTERVAL,
            health_check_timeout=TIMEOUT,
            **config,
        )
        env.register_service_with_config("svc", cls, answers, deployment_config=config)
        env.deploy()
        made = Ward(env, clock, answers, events, until)
        if "health" in monitors:
            made.advance(0)
        return made

    return make
