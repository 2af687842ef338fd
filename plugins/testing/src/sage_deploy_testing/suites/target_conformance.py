"""
The rules for every target, as cases that run on real deployed services, under every strategy.

A target's own tests inherit them, and get every case that its capabilities allow:

    from sage_deploy_testing.suites.target_conformance import TargetConformance

    class TestMine(TargetConformance):
        plugin_id = "mine"
        options = {"address": "..."}

Replicas may run in other processes of this machine: services, arguments and results can be pickled. A case observes a
service only through these and through loopback sockets. Cases that share objects need the capability `in_process`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from zlib import crc32

import pytest

from sage_deploy_testing.cases import (
    adoption_cases,
    call_cases,
    change_cases,
    configure_cases,
    deadline_cases,
    future_cases,
    killing_cases,
    lifecycle_cases,
    limit_cases,
    memory_cases,
    overload_cases,
    queue_cases,
    recycling_cases,
    replica_cases,
    resilience_cases,
    stream_cases,
    supervision_cases,
    update_cases,
    wire_cases,
)
from sage_deploy_testing.suites.probes import Late, Living
from sage_deploy_testing.suites.service_conformance import ServiceConformance
from sage_plugins import ServiceFactory, ServiceTaskFactory
from sage_plugins.values import Placed, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["TargetConformance"]


class PlacementCases(ServiceConformance):
    """The target places replicas, and reports their states."""

    def test_plan_starts_nothing(self) -> None:
        """Planning names the target and builds no replica."""
        diary = self.watch(held=False)
        service = self.register(Living, diary.checkpoint)
        assert self.target in str(service.env.plan())
        assert (diary.seen(), self.replica_threads()) == ([], [])
        assert service.status["state"] == "pending"

    def test_every_replica_is_placed_or_refused_with_a_reason(self) -> None:
        """
        `place` returns a place or a refusal for each replica in turn, with a reason, and starts nothing.

        A target that started nothing can be closed, even twice.
        """
        diary = self.watch(held=False)
        factory = ServiceFactory("svc", Living, (diary.checkpoint,))
        task = ServiceTaskFactory(factory, self.configuration(), registry=self.registry()).create_service_task()
        target = task.composition.target.create()
        places = target.place([task.composition.spec(index) for index in range(3)])
        assert len(places) == 3
        assert all(isinstance(place, (Placed, Refused)) and place.reason for place in places)
        target.close()
        target.close()
        assert (diary.seen(), self.replica_threads()) == ([], [])

    def test_replica_is_ready_when_its_start_hooks_have_ended(self) -> None:
        """A replica is `starting` until its start hooks have ended, and deploying waits for them."""
        diary, gate = self.watch(held=False), self.watch()
        service = self.register(Late, diary.checkpoint, gate.checkpoint, **self.several(2))
        deploying = self.in_thread(service.env.deploy)
        gate.wait(2)
        assert [replica["state"] for replica in service.status["replicas"]] == ["starting"] * 2
        assert not deploying.done()
        gate.open()
        deploying.result(self.patience)
        assert sorted(step for step, *_ in diary.seen()) == sorted(2 * ["init", "setup", "start_running", "warmup"])
        assert [replica["state"] for replica in service.status["replicas"]] == ["ready"] * 2
        assert service.status["health"]["healthy"]

    def test_status_is_answered_while_every_slot_is_taken(self) -> None:
        """A status needs no slot: it is answered while every slot is taken."""
        service = self.deploy()
        occupied = self.occupy(service)
        status = self.in_thread(lambda: service.status).result(self.patience)
        (replica,) = status["replicas"]
        assert (replica["state"], replica["inflight"]) == ("ready", replica["slots"])
        occupied.open()

    def test_closed_service_has_stopped_replicas(self) -> None:
        service = self.deploy(**self.several(2))
        service.env.close()
        assert [replica["state"] for replica in service.status["replicas"]] == ["stopped"] * 2


class TargetConformance(
    PlacementCases,
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
    wire_cases.WireCases,
    replica_cases.ReplicaCases,
    change_cases.ChangeCases,
    change_cases.DrainCases,
    change_cases.CheckCases,
    configure_cases.ConfigureCases,
    update_cases.UpdateCases,
    resilience_cases.RetryCases,
    resilience_cases.HedgeCases,
    resilience_cases.BreakerCases,
    supervision_cases.SupervisionCases,
    killing_cases.KillingCases,
    recycling_cases.RecyclingCases,
    adoption_cases.AdoptionCases,
):
    """
    The rules that a caller of a service can rely on, wherever its replicas run.

    Inherit it in a class whose name begins with `Test`, and set `plugin_id`. `service_conformance.TARGET_CAPABILITIES`
    lists the capabilities that a target can declare. `ServiceConformance` has attributes for the configuration, the
    options of environments, and the times that the cases use, for example `patience` and `starting`. Each case runs
    with the strategies that `strategies` returns, the load balancers of `balancers`, and the plugins of `registry`.

    Attributes:
        in_turn: Run each case under only one strategy, chosen by the name of the case. Set it for a target whose
            replicas take long to start.
    """

    kind: ClassVar[str] = "target"
    in_turn: ClassVar[bool] = False

    @property
    def target(self) -> str:  # type: ignore[override] # the same for all cases of the suite
        """The target under test."""
        return self.plugin_id

    def strategies(self) -> Sequence[str]:
        """
        Return the IDs of the threading strategies under which each case runs. Override it to run fewer.

        The default is all strategies in `registry` that the target can run. If replicas run in other processes,
        strategies that run calls in their callers' threads are left out: such a configuration is refused (`E306`).
        """
        registry = self.registry()
        here = "in_process" in registry.find("target", self.plugin_id).registration.capabilities
        return [
            id
            for id in registry.ids("threading strategy")
            if here or "in_callers_thread" not in registry.find("threading strategy", id).registration.capabilities
        ]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each case under each strategy, or under one of them (see `in_turn`)."""
        super().pytest_generate_tests(metafunc)
        known = self.strategies()
        metafunc.parametrize("strategy", [self.strategy_in_turn(metafunc.function)] if self.in_turn else known)

    def strategy_in_turn(self, case: Callable[..., Any]) -> str:
        """Return a strategy under which *case* applies. It is the same in every run."""
        known = self.strategies()
        first = crc32(case.__name__.encode()) % len(known)
        for self.strategy in (*known[first:], *known[:first]):
            if self.unsupported(case) is None:
                break
        return self.strategy

    @pytest.fixture
    def _chosen(self, strategy: str) -> None:
        self.strategy = strategy
