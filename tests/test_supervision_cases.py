"""The cases about replicas that die, on a target whose replicas are processes; and that they fail where they must."""

from __future__ import annotations

import process_target
import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_threading
from sage_plugins import hookimpl
from sage_plugins.plugins import Registry
from sage_plugins.testing.supervision_cases import SupervisionCases


class Plugin:
    @hookimpl
    def sage_register_targets(self):
        return [process_target.registration()]


class TestProcess(SupervisionCases):
    kind = "target"
    plugin_id = target = "process"
    strategy = "single"

    def registry(self):
        return Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, Plugin())

    def kill(self, service, replica_id):
        process_target.kill(replica_id)
