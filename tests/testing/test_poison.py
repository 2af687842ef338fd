"""
A call that kills its replica takes down a bounded number of replicas: one, or two if it is idempotent.

Other calls are answered.
"""

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
    """Its methods `die` and `die_once` kill their own process."""

    @idempotent
    def read(self, number):
        return number

    @idempotent
    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def die_once(self):
        os.kill(os.getpid(), signal.SIGKILL)


class TestPoison(ServiceConformance):
    """The replicas are real processes, and really die."""

    kind = "target"
    plugin_id = target = "process"
    strategy = "single"

    def registry(self):
        return Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, Plugin())

    @pytest.mark.parametrize(("method", "most"), [("die", MOST_DEATHS), ("die_once", 1)])
    def test_poison_takes_few_replicas_along_and_no_other_call(self, method, most):
        """Calls that kill their replicas harm no other call: all of 40 good calls for each of them are answered."""
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
