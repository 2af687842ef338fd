"""Handles of a stranger's services travel to other processes, and its services call each other."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import acme_sockets
import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_plugins.plugins.registry import Registry
from travelling import BoundCases, CallCases, ChangeCases, HandleCases, OwnerCases, Travelling

pytestmark = pytest.mark.timeout(180)

REGISTRY = Registry.of(
    acme_sockets, sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading
)


class OverSockets(Travelling):
    """Between child processes of this one, and programs that find them by the handle alone."""

    plugin_id = target = "sockets"
    patience = 40.0  # some cases start several processes
    owner = """
        import acme_sockets, sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading
        from sage_plugins import Environment, ServiceDeploymentConfig
        from sage_deploy_testing.suites.probes import Probe
        from sage_plugins.plugins.registry import Registry
        registry = Registry.of(acme_sockets, sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading)
        env = Environment("theirs", registry=registry)
        env.register_service_with_config(
            "svc", Probe, deployment_config=ServiceDeploymentConfig(target="sockets", threading_strategy="single")
        )
        handle = env.service("svc")
        open("handle", "wb").write(pickle.dumps(handle))
    """

    @pytest.fixture(autouse=True)
    def importable_in_other_processes(self, monkeypatch):
        """They import the target from where this process has it; what those leave that are killed is removed."""
        monkeypatch.setenv("PYTHONPATH", str(Path(acme_sockets.__file__).parent.parent))
        with TemporaryDirectory() as folder:  # the path of a socket must be short
            monkeypatch.setenv("TMPDIR", folder)
            yield

    def registry(self):
        return REGISTRY


class TestHandles(HandleCases, OverSockets):
    pass


class TestChanges(ChangeCases, OverSockets):
    pass


class TestBounds(BoundCases, OverSockets):
    pass


class TestServicesThatCall(CallCases, OverSockets):
    pass


class TestOwners(OwnerCases, OverSockets):
    pass
