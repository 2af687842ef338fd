"""Shared fixtures for tests of plans: environments with a file, or on nodes."""

from __future__ import annotations

import sys

import pytest

from planned_nodes import FILE, MODULE, OURS, NodesPlugin
from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.plugins.registry import Registry


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Makes an environment with the file, for a profile."""
    (tmp_path / "planned.py").write_text(MODULE)
    (tmp_path / "services.yaml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("KV_KEY", "sesame-open")
    monkeypatch.delitem(sys.modules, "planned", raising=False)

    def make(profile=None):
        env = Environment("planned")
        env.load_service_deployment_config("services.yaml", profile=profile)
        return env

    return make


@pytest.fixture
def on_nodes(environments):
    """Makes an environment with one service on the third-party target's nodes."""

    def make(plugin=None, **config):
        env = environments("nodes", registry=Registry.of(*OURS, plugin or NodesPlugin()))
        config = ServiceDeploymentConfig(target="nodes", **config)
        env.register_service_with_config("kv", type("KV", (), {"get": lambda self: 1}), deployment_config=config)
        return env

    return make
