"""Handles of services on target `process` can be sent to other processes, and its services call each other."""

from __future__ import annotations

import pytest

from driver_service_cases import DriverServiceCases
from travelling import BoundCases, CallCases, ChangeCases, HandleCases, OwnerCases, Travelling

pytestmark = pytest.mark.timeout(180)


class OverSockets(Travelling):
    """Between child processes of this process, and programs that know only the handle."""

    plugin_id = target = "process"
    patience = 40.0  # some cases start several processes
    owner = """
        from sage_plugins import Environment, ServiceDeploymentConfig
        from sage_deploy_testing.suites.probes import Probe
        env = Environment("theirs")
        env.register_service_with_config(
            "svc", Probe, deployment_config=ServiceDeploymentConfig(target="process", threading_strategy="single")
        )
        handle = env.service("svc")
        open("handle", "wb").write(pickle.dumps(handle))
    """

    @pytest.fixture(autouse=True)
    def own_folder(self, monkeypatch, tmp_path):
        """Programs that the test kills leave files only in this folder."""
        monkeypatch.setenv("TMPDIR", str(tmp_path))


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


class TestDriverServices(DriverServiceCases, OverSockets):
    pass
