"""Shared fixtures for tests of changes to a running service."""

from __future__ import annotations

import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from changed_service import Counted, FirstOfAll, LastOfAll, Noted
from sage_plugins.hookspecs import hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration


@pytest.fixture(params=["single", "multi", "pool", "async", "inline"])
def strategy(request):
    return request.param


@pytest.fixture
def noted():
    return Noted()


@pytest.fixture
def composed():
    """The number of candidates each time the balancer `counted` builds its picker."""
    return []


@pytest.fixture
def options(noted, composed):
    """Options for `deploy`: the monitor `noted` and several balancers."""

    class Plugin:
        @hookimpl
        def sage_register_monitors(self):
            return [Registration("noted", lambda _: noted, "notes")]

        @hookimpl
        def sage_register_load_balancers(self):
            return [
                Registration("first", lambda *_: FirstOfAll(), "the first"),
                Registration("last", lambda *_: LastOfAll(), "the last"),
                Registration("counted", lambda *_: Counted(composed), "the last, and counts"),
                Registration("broken", lambda *_: 1 / 0, "cannot be made"),
            ]

    registry = Registry.of(
        sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading, Plugin()
    )
    return {"env_options": {"registry": registry}, "monitors": ["metrics", "noted"]}
