"""The conformance cases for dying replicas: they pass for a target with processes and fail for faulty ones."""

from __future__ import annotations

import pytest

import process_target
import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_testing.cases.supervision_cases import SupervisionCases
from sage_plugins import hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Outcome


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


# -- faults that show --------------------------------------------------------------------------------------------------


class SilentWhenIdle(process_target.ProcessReplica):
    """Reports its death only if it ran a call."""

    def report(self, not_started, maybe, cause):
        if maybe:
            super().report(not_started, maybe, cause)


class SaysThatNothingHadStarted(process_target.ProcessReplica):
    """Reports running calls as not started."""

    def report(self, not_started, maybe, cause):
        super().report((*not_started, *maybe), (), cause)


class ForgetsItsCalls(process_target.ProcessReplica):
    """Reports its death without the calls that it ran."""

    def report(self, not_started, maybe, cause):
        super().report((), (), cause)


class SaysTheyFailed(process_target.ProcessReplica):
    """Ends the calls of a dead replica with another error."""

    def report(self, not_started, maybe, cause):
        for call in maybe:
            call.give_up(cause, Outcome.ERROR)
        super().report(not_started, (), cause)


FAULTS = [
    (SilentWhenIdle, "test_replica_that_dies_is_replaced", {}),
    (SaysThatNothingHadStarted, "test_started_call_that_may_not_run_twice_ends_with_its_replica", {}),
    (
        SaysThatNothingHadStarted,
        "test_poison_call_takes_no_more_replicas_with_it_than_it_may_start_on",
        {"idempotent": False, "deaths": 1},
    ),
    (ForgetsItsCalls, "test_started_idempotent_call_moves_to_another_replica", {}),
    (SaysTheyFailed, "test_calls_that_wait_survive_the_only_replica", {}),
]


class Suite(TestProcess):
    """Runs the suite on a target that breaks a rule."""

    __test__ = False

    def __init__(self, replica, patience):
        self.replica = replica
        self.patience = patience

    def registry(self):
        replica = self.replica

        class Plugin:
            @hookimpl
            def sage_register_targets(self):
                return [process_target.registration(replica=replica)]

        return Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, Plugin())

    def run(self, case, arguments):
        method = getattr(self, case)
        assert self.unsupported(method) is None
        with self.stage():
            method(**arguments)


@pytest.mark.parametrize(("replica", "case", "arguments"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_fault_is_caught(replica, case, arguments):
    """The case fails for the faulty target. `TestProcess` above shows that it passes for the correct one."""
    with pytest.raises((Exception, pytest.fail.Exception)):
        Suite(replica, patience=3.0).run(case, arguments)


def test_target_that_declares_can_kill_says_how():
    """A suite for a target with `can_kill` must override `kill`; the error says so."""

    class Forgetful(Suite):
        kill = SupervisionCases.kill

    with pytest.raises(NotImplementedError, match=r"Forgetful declares 'can_kill'.*override it"):
        Forgetful(process_target.ProcessReplica, patience=3.0).run("test_replica_that_dies_is_replaced", {})
