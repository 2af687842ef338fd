"""Fixtures for tests of services in the deploying process: deploy them, and visit them as another process does."""

from __future__ import annotations

import gc
import threading

import pytest

import memory_directory
from home_service import GATES, PATIENCE_S, VISITS, Gate, Home
from sage_deploy_remote.link.sockets import connection_reader
from sage_deploy_remote.reach.client import ServiceClient
from sage_plugins import ServiceDeploymentConfig
from sage_plugins.clock import SYSTEM


@pytest.fixture
def gate():
    GATES["gate"] = made = Gate()
    yield made
    made.open.set()
    GATES.clear()


@pytest.fixture(autouse=True)
def short_naps(monkeypatch):
    """An idle connection reader ends soon, so that no test waits for it."""
    monkeypatch.setattr(connection_reader, "_IDLE_S", 0.01)


@pytest.fixture
def register(env):
    def register(name, target="local", cls=Home, **fields):
        config = ServiceDeploymentConfig(**{"target": target, "timeout": PATIENCE_S} | fields)
        env.register_service_with_config(name, cls, deployment_config=config)

    return register


@pytest.fixture
def visit(env, plugin, until):
    """Connect to a service as another process does; *who* tells several such processes apart."""
    clients = {}

    def visit(name="home", who="another"):
        if (name, who) not in clients:
            directory = memory_directory.MemoryDirectory(plugin.book, env.id)
            clients[name, who] = ServiceClient(directory, env.name, name)
        return clients[name, who].handle

    yield visit
    VISITS.clear()
    for client in clients.values():
        client._finalizer()
    clients.clear()
    until(lambda: not any(each.name.endswith("-reader") for each in threading.enumerate()))
    gc.collect()
    SYSTEM.rest()


@pytest.fixture
def deploy(env, register, visit):
    """Deploy a local service and one on another target. Return a handle to the first, as another process has it."""

    def deploy(**fields):
        register("home", **fields)
        register("relay", "memory")
        env.deploy()
        return visit()

    return deploy
