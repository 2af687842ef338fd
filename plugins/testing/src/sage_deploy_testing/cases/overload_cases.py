"""The rules for a full queue that sheds a waiting call for a new one, and for priorities."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from sage_deploy_testing.suites.conformance import needs
from sage_deploy_testing.suites.service_conformance import VERBS, ServiceConformance
from sage_plugins import errors

if TYPE_CHECKING:
    from concurrent.futures import Future

    from sage_deploy_testing.suites.service_conformance import Deployed

__all__ = ["PriorityCases", "SheddingCases"]


class SheddingCases(ServiceConformance):
    """`overload: shed_oldest`: the call that has waited longest makes room."""

    def test_the_oldest_waiting_call_ends_for_a_new_one(self) -> None:
        """The shed call never runs and counts as refused. The others are answered, and running calls go on."""
        service = self.deploy(queue_size=2, overload="shed_oldest")
        occupied = self.occupy(service)
        waiting = [self.queued(service, "do", number) for number in range(2)]
        for number in range(2, 5):
            waiting.append(self.begin(service.handle, "do", number))
            with pytest.raises(errors.OverloadedError, match="and it has waited longest") as caught:
                waiting[number - 2].result(self.patience)
            assert (caught.value.service, caught.value.method) == ("svc", "do")
        assert service.waiting == 2
        assert service.metrics.rejected_count == 3
        occupied.open()
        assert [call.result(self.patience) for call in waiting[3:]] == [0, 0]
        self.until(lambda: service.inflight == 0)
        assert sorted(each for each in service.handle.done() if each is not None) == [3, 4]

    @VERBS
    def test_a_caller_by_every_verb_learns_that_its_call_made_room(self, verb: str) -> None:
        service = self.deploy(queue_size=1, overload="shed_oldest")
        occupied = self.occupy(service)
        caller = self.in_thread(self.outcome, service.handle, verb, "do", "shed")
        self.until(lambda: service.waiting == 1)
        last = self.begin(service.handle, "echo", "last")
        with pytest.raises(errors.OverloadedError, match="waited longest"):
            caller.result(self.patience)
        occupied.open()
        assert last.result(self.patience) == "last"
        self.until(lambda: service.inflight == 0)
        assert "shed" not in service.handle.done()

    def test_without_a_queue_a_call_is_refused(self) -> None:
        """With `queue_size` 0, no call waits that could make room, so the new call is refused."""
        service = self.deploy(queue_size=0, overload="shed_oldest")
        occupied = self.occupy(service)
        with pytest.raises(errors.OverloadedError, match="was not accepted"):
            service.handle.echo()
        occupied.open()

    @pytest.mark.parametrize("overload", ["shed_oldest", "priority"])
    def test_the_bound_is_exact_under_many_threads(self, overload: str) -> None:
        """However many threads call at once, exactly `queue_size` calls wait in the end, and the others are refused."""
        service = self.deploy(queue_size=3, overload=overload)
        occupied = self.occupy(service)
        start = threading.Barrier(12)
        refused: list[errors.OverloadedError] = []
        answers: list[Any] = []

        def caller(number: int) -> None:
            start.wait(self.patience)
            handle = service.handle if overload == "shed_oldest" else service.handle.with_options(priority=number % 3)
            try:
                answers.append(handle.call("do", number))
            except errors.OverloadedError as error:
                refused.append(error)

        callers = [self.in_thread(caller, number) for number in range(12)]
        self.until(lambda: len(refused) == 9)
        assert service.waiting == 3
        assert service.metrics.rejected_count == 9
        occupied.open()
        for each in callers:
            each.result(self.patience)
        assert answers == [0] * 3
        self.until(lambda: service.inflight == 0)
        assert len([each for each in service.handle.done() if each is not None]) == 3
        assert service.waiting == 0


class PriorityCases(ServiceConformance):
    """`overload: priority`: waiting calls start by priority, and the lowest one makes room."""

    def _queued(self, service: Deployed, priority: int, number: int) -> Future[Any]:
        before = service.waiting
        future = self.begin(service.handle.with_options(priority=priority), "do", number)
        self.until(lambda: service.waiting > before or future.done())
        return future

    @needs("ordered")
    def test_waiting_calls_start_by_priority(self) -> None:
        """Higher priorities start first. The default is 0. Equal priorities start in the order of their calls."""
        service = self.deploy(overload="priority")
        occupied = self.occupy(service)
        calls = [self._queued(service, priority, n) for n, priority in enumerate((-1, 1, 0, 7, 1, -1))]
        calls.append(self.queued(service, "do", 6))
        occupied.open()
        for each in calls:
            each.result(self.patience)
        assert service.handle.done() == [None, 3, 1, 4, 2, 6, 0, 5]

    def test_the_lowest_priority_makes_room_for_a_higher_one(self) -> None:
        """The waiting call with the lowest priority makes room. A new call that is not higher is refused."""
        service = self.deploy(queue_size=2, overload="priority")
        occupied = self.occupy(service)
        low, high = self._queued(service, 0, 0), self._queued(service, 5, 1)
        new = self.begin(service.handle.with_options(priority=1), "do", 2)
        with pytest.raises(errors.OverloadedError, match="has the lowest priority"):
            low.result(self.patience)
        self.until(lambda: service.waiting == 2)
        for priority in (1, 0, -3):
            with pytest.raises(errors.OverloadedError, match="was not accepted"):
                service.handle.with_options(priority=priority).call("do", 3)
        occupied.open()
        assert [each.result(self.patience) for each in (high, new)] == [0, 0]
        self.until(lambda: service.inflight == 0)
        assert sorted(each for each in service.handle.done() if each is not None) == [1, 2]

    def test_priority_is_an_error_where_it_has_no_effect(self) -> None:
        """The first call fails with ConfigError, or `with_options` if the handle has made a call. 0 is valid."""
        service = self.deploy()
        early = service.handle.with_options(priority=1)
        with pytest.raises(errors.ConfigError, match=r"priority: 1 has no effect on service 'svc'.*overload: priority"):
            early.echo()
        assert service.handle.with_options(priority=0).echo("fine") == "fine"
        with pytest.raises(errors.ConfigError, match="has no effect"):
            service.handle.with_options(priority=-1).echo()
