"""A call that kills whatever runs it is blamed for that: two replicas die of it, and the others go on."""

from __future__ import annotations

import os
import signal

import pytest

import process_target
import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_testing.suites.service_conformance import ServiceConformance
from sage_plugins import errors, hookimpl, idempotent
from sage_plugins.plugins.registry import Registry
from sage_plugins.resilience.retries import MOST_DEATHS


class Plugin:
    @hookimpl
    def sage_register_targets(self):
        return [process_target.registration()]


class Fragile:
    """Kills its own process when it is asked to."""

    @idempotent
    def read(self, number):
        return number

    @idempotent
    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def die_once(self):
        os.kill(os.getpid(), signal.SIGKILL)


class TestPoison(ServiceConformance):
    """On replicas that are processes, and really die."""

    kind = "target"
    plugin_id = target = "process"
    strategy = "single"

    def registry(self):
        return Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, Plugin())

    @pytest.mark.parametrize(("method", "most"), [("die", MOST_DEATHS), ("die_once", 1)])
    def test_poison_takes_few_replicas_along_and_no_other_call(self, method, most):
        """Four replicas, 40 good calls for each that kills: all of the good ones are answered."""
        service = self.deploy(Fragile, **self.several(4), retry={"max_attempts": 9})
        poisons = 2
        for _ in range(poisons):
            good = [service.handle.submit("read", number) for number in range(40)]
            with pytest.raises(errors.ReplicaDiedError) as caught:
                service.handle.call(method)
            assert caught.value.maybe_executed
            assert [call.result(self.patience) for call in good] == list(range(40))
        deaths = [each for each in service.env.events() if each.event.kind == "replica_failed"]
        assert poisons <= len(deaths) <= poisons * most
        assert service.handle.read(1) == 1
