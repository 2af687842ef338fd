"""Target `process` behaves as all targets must."""

from __future__ import annotations

import pytest

from killing import kill_replica
from strategies_in_turn import StrategiesInTurn

pytestmark = pytest.mark.timeout(180)


class TestProcess(StrategiesInTurn):
    plugin_id = "process"
    one_in = 32  # each starts processes; all cases run in `make test-long`
    starting = 3.0  # a process takes longer to start than a thread
    while_running = 1.0  # a replica's first call of another service imports the modules that it needs
    patience = 40.0  # some cases start dozens

    def kill(self, service, replica_id):
        kill_replica(service.status, replica_id)
