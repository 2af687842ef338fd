"""The targets on a Ray cluster behave as all targets must."""

from __future__ import annotations

from typing import ClassVar

import pytest

from killing import kill_replica
from strategies_in_turn import StrategiesInTurn

pytestmark = pytest.mark.ray


@pytest.mark.usefixtures("cluster")
class TestRemoteAny(StrategiesInTurn):
    plugin_id = "remote_any"
    config: ClassVar = {"cpu_cores": 0.1}
    one_in = 24  # the other cases run by message in `make test`, and here in `make test-long`
    keeping: ClassVar = {"ray": {"address": "auto", "lifetime": "detached"}}
    starting = 3.0  # a process takes longer than a thread

    def kill(self, service, replica_id):
        kill_replica(service.status, replica_id)
