"""The rules for several replicas of one service, behind every installed load balancer."""

from __future__ import annotations

import collections
import contextlib
import random
import signal
import sys
import threading
from typing import Any

import pytest

from sage_deploy_testing.suites.probes import Failing, Living, Probe
from sage_deploy_testing.suites.service_conformance import Deployed, ServiceConformance
from sage_plugins import errors

__all__ = ["InterruptionCases", "ReplicaCases"]


class _Interrupt(BaseException):
    """What the signal handler raises."""


def _depth() -> int:
    frame: Any = sys._getframe()  # noqa: SLF001 - documented
    depth = 0
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    return depth


class InterruptionCases(ServiceConformance):
    """An exception between two steps of a caller's thread loses no slot."""

    @pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that signal")
    # The signal may come in a finalizer or a callback of the garbage collector: Python drops the exception there.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_no_signal_that_raises_loses_a_slot(self) -> None:
        """The exception of a signal handler in the middle of a call reaches the caller, and every slot stays usable."""
        if threading.current_thread() is not threading.main_thread():
            pytest.skip("signals are handled in the main thread")
        self.may_lose = True
        service = self.deploy()
        rung: list[None] = []

        def interrupt(_number: int, _frame: object) -> None:
            rung.append(None)
            raise _Interrupt

        def call_until_rung() -> None:
            while not rung:
                assert service.handle.echo(1) == 1

        before = signal.signal(signal.SIGPROF, interrupt)
        moments = random.Random(1)  # noqa: S311 - no secret
        try:
            for _ in range(100):
                rung.clear()
                # Python drops an exception raised in a finalizer, so the list records each signal too.
                with contextlib.suppress(_Interrupt):
                    signal.setitimer(signal.ITIMER_PROF, moments.uniform(0.0003, 0.002))
                    call_until_rung()  # Python 3.13 may raise at the end of a loop outside of the `with` around it
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
        assert service.handle.echo("alive") == "alive"
        self.occupy(service).open()

    def test_the_recursion_limit_loses_no_slot(self) -> None:
        """After calls that raise RecursionError near the limit, every slot stays usable."""
        self.may_lose = True
        service = self.deploy()

        def call_at(depth: int) -> Any:
            return service.handle.echo(depth) if depth == 0 else call_at(depth - 1)

        left = sys.getrecursionlimit() - _depth()
        for depth in range(left - 40, left):
            with contextlib.suppress(RecursionError):
                call_at(depth)
        assert service.handle.echo("alive") == "alive"
        self.occupy(service).open()


class ReplicaCases(ServiceConformance):
    """These rules hold for every load balancer."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each case with a `balancer` parameter once for each balancer."""
        if "balancer" in metafunc.fixturenames:
            metafunc.parametrize("balancer", self.balancers())

    def balanced(self, balancer: str, cls: type = Probe, *args: Any, **fields: Any) -> Deployed:
        """Deploy three replicas."""
        return self.deploy(cls, *args, **self.several(3, balancer), **fields)

    def test_each_replica_has_its_own_instance(self, balancer: str) -> None:
        """Each replica has its own index, context and instance, and calls fill the slots of all replicas."""
        service = self.balanced(balancer)
        ids = [replica["id"] for replica in service.status["replicas"]]
        assert ids == ["svc#0", "svc#1", "svc#2"]
        gate = self.watch()
        calls = [self.begin(service.handle, "hold", gate.checkpoint) for _ in range(service.slots)]
        seen = collections.Counter(gate.wait(service.slots))
        assert seen == dict.fromkeys(range(3), service.slots // 3)
        gate.open()
        assert sorted(call.result(self.patience) for call in calls) == sorted(seen.elements())

    def test_calls_of_many_threads_each_run_on_one_replica(self, balancer: str) -> None:
        """Of 200 calls from 8 threads, each runs once, on one replica, and counts once."""
        service = self.balanced(balancer)

        def caller(number: int) -> list[int]:
            return [service.handle.do([number, turn]) for turn in range(25)]

        ran = collections.Counter(index for results in self.together(caller, 8) for index in results)
        assert ran.total() == 200
        assert service.outcomes == {"ok": 200}
        assert (service.inflight, service.waiting) == (0, 0)

    def test_deadline_in_the_queue_of_all_replicas(self, balancer: str) -> None:
        """If all slots of all replicas are full, a call times out in the queue. Afterwards all slots are free again."""
        service = self.balanced(balancer)
        occupied = self.occupy(service)
        with pytest.raises(errors.CallTimeoutError) as caught:
            service.handle.with_options(timeout=self.short).do("late")
        assert caught.value.stage == "queue"
        assert service.waiting == 0
        occupied.open()
        # If it chose a busy replica, a balancer that binds keys would make the call wait for it.
        self.until(lambda: service.inflight == 0)
        self.occupy(service).open()

    def test_waiting_calls_all_run(self, balancer: str) -> None:
        """Calls that waited for a slot run once any replica is free."""
        service = self.balanced(balancer)
        occupied = self.occupy(service)
        waiting = [self.queued(service, "do", number) for number in range(6)]
        occupied.open()
        assert all(call.result(self.patience) in range(3) for call in waiting)

    def test_hooks_run_once_for_each_replica(self, balancer: str) -> None:
        diary = self.watch(held=False)
        service = self.balanced(balancer, Living, diary.checkpoint)
        service.env.close()
        steps = collections.Counter((step, index) for step, index, *_ in diary.seen())
        hooks = ("init", "setup", "start_running", "warmup", "stop", "cleanup")
        assert steps == {(hook, index): 1 for hook in hooks for index in range(3)}
        self.check_threads_ended()

    def test_one_replica_that_fails_stops_the_others(self, balancer: str) -> None:
        """If one replica fails to start, the others stop."""
        diary = self.watch(held=False)
        with pytest.raises(errors.DeployError, match="replica 1: "):
            self.balanced(balancer, Failing, diary.checkpoint, "init", 1)
        steps = collections.Counter(step for step, index, *_ in diary.seen() if index != 1)
        assert steps["init"] == steps["cleanup"]
        self.check_threads_ended()
