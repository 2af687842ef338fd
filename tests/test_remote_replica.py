"""A replica that is reached by frames and letters keeps the semantics that are the same for all targets."""

from __future__ import annotations

import loop_target
import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_threading
from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.plugins import Registry
from sage_plugins.testing.probes import Probe
from sage_plugins.values import Outcome
from strategies_in_turn import StrategiesInTurn

REGISTRY = Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, loop_target.Plugin())


class TestByLetter(StrategiesInTurn):
    plugin_id = "loop"

    def registry(self):
        return REGISTRY


def test_call_that_the_replica_has_answered_is_not_counted_by_who_gives_it_up_at_that_moment():
    """The replica has counted it: a caller whose deadline passes while the answer is read must not count it too."""
    with Environment("test", registry=REGISTRY) as env:
        env.register_service_with_config("svc", Probe, deployment_config=ServiceDeploymentConfig(target="loop"))
        call = env.service("svc").submit("echo", 1)
        call.result(20)

        assert call.lane.counts(call, Outcome.TIMEOUT, 0.0)
        assert env.get_service_status("svc")["metrics"].request_count == 1
