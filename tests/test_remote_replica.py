"""A replica that is reached by frames and letters keeps the semantics that are the same for all targets."""

from __future__ import annotations

import loop_target
import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_threading
from sage_plugins.plugins import Registry
from strategies_in_turn import StrategiesInTurn


class TestByLetter(StrategiesInTurn):
    plugin_id = "loop"

    def registry(self):
        return Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, loop_target.Plugin())
