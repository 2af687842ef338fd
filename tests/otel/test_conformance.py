"""The monitor `otel` passes the conformance suite for monitors."""

from __future__ import annotations

import pytest

from sage_deploy_testing.suites.monitor_conformance import MonitorConformance
from sage_plugins.call.current import INJECTORS


class TestOtel(MonitorConformance):
    plugin_id = "otel"

    @pytest.fixture(autouse=True)
    def _leaves_injectors_alone(self):
        before = list(INJECTORS)
        yield
        INJECTORS[:] = before
