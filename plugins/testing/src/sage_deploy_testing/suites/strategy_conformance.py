"""
The rules for every threading strategy, as cases that run on real deployed services.

A strategy's own tests inherit them, and get every case that its capabilities allow:

    from sage_deploy_testing.suites.strategy_conformance import StrategyConformance

    class TestMine(StrategyConformance):
        plugin_id = "mine"
        options = {"stack_kb": 512}
"""

from __future__ import annotations

from typing import ClassVar

from sage_deploy_testing.cases import (
    call_cases,
    change_cases,
    configure_cases,
    deadline_cases,
    future_cases,
    lifecycle_cases,
    limit_cases,
    memory_cases,
    overload_cases,
    queue_cases,
    replica_cases,
    resilience_cases,
    stream_cases,
    update_cases,
)

__all__ = ["StrategyConformance"]


class StrategyConformance(
    call_cases.CallCases,
    call_cases.ErrorCases,
    future_cases.FutureCases,
    call_cases.CoroutineCases,
    deadline_cases.QueueDeadlineCases,
    deadline_cases.DeadlineCases,
    deadline_cases.CallbackCases,
    deadline_cases.TravellingDeadlineCases,
    queue_cases.OverlapCases,
    queue_cases.BoundCases,
    queue_cases.StormCases,
    overload_cases.SheddingCases,
    overload_cases.PriorityCases,
    limit_cases.LimitCases,
    stream_cases.StreamCases,
    stream_cases.DisguisedCases,
    stream_cases.BatchCases,
    lifecycle_cases.HookCases,
    lifecycle_cases.FailedStartCases,
    lifecycle_cases.LazyCases,
    lifecycle_cases.CloseCases,
    memory_cases.MemoryCases,
    replica_cases.ReplicaCases,
    replica_cases.InterruptionCases,
    change_cases.ChangeCases,
    change_cases.DrainCases,
    change_cases.CheckCases,
    configure_cases.ConfigureCases,
    update_cases.UpdateCases,
    resilience_cases.RetryCases,
    resilience_cases.HedgeCases,
    resilience_cases.BreakerCases,
):
    """
    The rules that a caller of a service can rely on, whichever strategy runs its calls.

    Inherit it in a class whose name begins with `Test`, and set `plugin_id`.
    `service_conformance.STRATEGY_CAPABILITIES` lists the capabilities that a strategy can declare. `ServiceConformance`
    has attributes for the configuration and for the times that the cases use, for example `patience` and `starting`.
    The services run on target `local`, with every load balancer that `balancers` returns.
    """

    kind: ClassVar[str] = "threading strategy"
    target = "local"

    @property
    def strategy(self) -> str:  # type: ignore[override] # the same for all cases of the suite
        """The strategy under test."""
        return self.plugin_id
