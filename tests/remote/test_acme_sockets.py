"""A stranger's target on the link library passes the suite for targets, here without being installed."""

from __future__ import annotations

from pathlib import Path

import acme_sockets
import pytest

import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_threading
from killing import kill_replica
from sage_plugins.plugins.registry import Registry
from strategies_in_turn import StrategiesInTurn

pytestmark = pytest.mark.timeout(180)

REGISTRY = Registry.of(acme_sockets, sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading)


class TestSockets(StrategiesInTurn):
    plugin_id = "sockets"
    one_in = 5  # each starts processes
    starting = 3.0  # a process takes longer to start than a thread
    patience = 40.0  # some cases start dozens

    @pytest.fixture(autouse=True)
    def importable_in_replicas(self, monkeypatch):
        """Replicas import the target from where this process has it."""
        monkeypatch.setenv("PYTHONPATH", str(Path(acme_sockets.__file__).parent.parent))

    def registry(self):
        return REGISTRY

    def kill(self, service, replica_id):
        kill_replica(service.status, replica_id)
