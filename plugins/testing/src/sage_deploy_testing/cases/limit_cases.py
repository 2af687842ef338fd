"""Limits on how many calls of one method a replica runs at once."""

from __future__ import annotations

from typing import Any

import pytest

from sage_deploy_testing.suites.conformance import needs, unless
from sage_deploy_testing.suites.probes import ProbeError
from sage_deploy_testing.suites.service_conformance import Deployed, ServiceConformance
from sage_plugins import errors

__all__ = ["LimitCases"]


class LimitCases(ServiceConformance):
    """`methods.<m>.max_concurrency` limits the calls of one method in each replica, and no other method's."""

    def limited(self, method: str, most: int, **fields: Any) -> Deployed:
        """Deploy a service whose replicas run at most *most* calls of *method* at once."""
        return self.deploy(methods={method: {"max_concurrency": most}}, **fields)

    @pytest.mark.parametrize("most", [1, 2])
    def test_never_more_calls_of_a_method_at_once_than_its_limit(self, most: int) -> None:
        """A replica never runs more calls of a method at once than its limit, and each call runs once."""
        service = self.limited("overlap", most, at_once=4)

        def caller(_: int) -> None:
            for _ in range(20):
                service.handle.overlap()

        self.together(caller, 8)
        assert 1 <= service.handle.most() <= most
        assert service.outcomes == {"ok": 161}

    @needs("concurrent")
    def test_as_many_calls_of_a_method_run_at_once_as_its_limit_allows(self) -> None:
        """As many calls of a method run as its limit allows. The others wait for one of them, even with free slots."""
        service = self.limited("hold", 2, at_once=4)
        gate = self.watch()
        calls = [service.handle.submit("hold", gate.checkpoint) for _ in range(5)]
        gate.wait(2)
        assert (service.inflight, service.waiting) == (2, 3)
        assert gate.seen() == []
        gate.open()
        assert [call.result(self.patience) for call in calls] == [0] * 5

    @needs("concurrent")
    def test_method_at_its_limit_holds_up_no_other(self) -> None:
        """While a slot is free, calls of other methods overtake calls that wait for their method's limit."""
        service = self.limited("hold", 1, at_once=2)
        gate = self.watch()
        held = [service.handle.submit("hold", gate.checkpoint) for _ in range(3)]
        gate.wait()
        assert [service.handle.echo(number) for number in range(10)] == list(range(10))
        assert service.waiting == 2
        gate.open()
        assert [call.result(self.patience) for call in held] == [0] * 3

    @needs("concurrent")
    def test_limit_holds_for_each_replica(self) -> None:
        """The limit counts per replica. A replica at its limit leaves the method's calls to the others."""
        service = self.limited("hold", 1, at_once=2, **self.several(2, "round_robin"))
        gate = self.watch()
        calls = [service.handle.submit("hold", gate.checkpoint) for _ in range(3)]
        assert sorted(gate.wait(2)) == [0, 1]
        assert (service.waiting, gate.seen()) == (1, [])
        gate.open()
        for call in calls:
            call.result(self.patience)

    def test_order_holds_within_a_limited_method(self) -> None:
        """With a limit of 1, a method's calls run in the order in which they came, even among other calls."""
        service = self.limited("do", 1)
        occupied = self.occupy(service)
        waiting = []
        for number in range(10):
            waiting += [self.queued(service, "do", number), self.queued(service, "echo", number)]
        occupied.open()
        for call in waiting:
            call.result(self.patience)
        assert [value for value in service.handle.done() if value is not None] == list(range(10))

    @unless("in_callers_thread")
    def test_cancelled_calls_of_a_limited_method_leave(self) -> None:
        """A call that is cancelled while it waits for its method's limit never runs, and takes no other call's turn."""
        service = self.limited("hold", 1)
        gate = self.watch()
        calls = [service.handle.submit("hold", gate.checkpoint, number) for number in range(5)]
        gate.wait()
        assert [calls[number].cancel() for number in (1, 3)] == [True, True]
        assert service.waiting == 2
        gate.open()
        for number in (0, 2, 4):
            calls[number].result(self.patience)
        assert service.handle.done() == [0, 2, 4]

    @needs("concurrent")
    def test_deadline_while_waiting_for_the_methods_turn(self) -> None:
        """A call whose deadline passes while it waits for its method's limit never starts, even with a free slot."""
        service = self.limited("hold", 1)
        gate = self.watch()
        held = service.handle.submit("hold", gate.checkpoint)
        gate.wait()
        with pytest.raises(errors.CallTimeoutError) as caught:
            service.handle.with_options(timeout=self.short).hold(gate.checkpoint, "late")
        assert caught.value.stage == "queue"
        assert service.waiting == 0
        gate.open()
        held.result(self.patience)
        service.handle.hold(gate.checkpoint)
        assert "late" not in service.handle.done()

    @needs("concurrent", "releases_at_deadline")
    def test_abandoned_method_keeps_its_turn(self) -> None:
        """An abandoned method still counts against its limit: the method's next call waits until it has ended."""
        service = self.limited("hold", 1)
        gate = self.watch()
        with pytest.raises(errors.CallTimeoutError):
            service.handle.with_options(timeout=self.while_running).hold(gate.checkpoint)
        gate.wait()
        following = service.handle.submit("hold", gate.checkpoint)
        assert service.handle.echo(1) == 1
        assert (service.waiting, gate.seen()) == (1, [])
        gate.open()
        assert following.result(self.patience) == 0

    def test_turn_is_free_again_however_a_call_ends(self) -> None:
        """A call that raises frees its place under the limit, as one that returns does."""
        service = self.limited("fail", 1)
        for _ in range(5):
            with pytest.raises(ProbeError):
                service.handle.fail("again")
        assert (service.inflight, service.waiting) == (0, 0)

    def test_calls_that_wait_for_their_methods_turn_fill_the_queue(self) -> None:
        """Calls that wait for their method's limit count against `queue_size`."""
        service = self.limited("hold", 1, queue_size=1, overload="reject")
        gate = self.watch()
        running = self.begin(service.handle, "hold", gate.checkpoint)
        gate.wait()
        waiting = self.queued(service, "hold", gate.checkpoint)
        with pytest.raises(errors.OverloadedError):
            service.handle.hold(gate.checkpoint)
        gate.open()
        assert [running.result(self.patience), waiting.result(self.patience)] == [0, 0]
