"""The rules for the queue: order, overlap and size."""

from __future__ import annotations

import asyncio
import collections
import random
import threading
from typing import Any

import pytest

from sage_deploy_testing.suites.conformance import needs, unless
from sage_deploy_testing.suites.probes import whereabouts
from sage_deploy_testing.suites.service_conformance import VERBS, ServiceConformance
from sage_plugins import errors

__all__ = ["BoundCases", "OverlapCases", "StormCases"]

_OUTCOMES = {
    "NoneType": "ok",
    "ProbeError": "error",
    "CallTimeoutError": "timeout",
    "ServiceStoppedError": "stopped",
    "OverloadedError": "refused",
}

#: The most answers in a storm that may cross their caller's cancellation or timeout. Usually 0 or 1 of about 700 do.
_CROSSED = 10


class OverlapCases(ServiceConformance):
    """Which calls run at once, in which thread, and in which order."""

    @needs("one_at_a_time")
    def test_one_call_at_a_time(self) -> None:
        """A replica never runs two calls at once, for any number of callers."""
        service = self.deploy()

        def caller(_: int) -> None:
            for _ in range(30):
                service.handle.overlap()

        self.together(caller, 6)
        assert service.handle.most() == 1
        assert service.slots == 1

    @needs("one_at_a_time")
    @unless("in_callers_thread")
    def test_everything_runs_on_one_thread(self) -> None:
        """All calls run on the same thread, which is never a caller's thread."""
        service = self.deploy()
        seen = {tuple(where) for _ in range(3) for where in self.together(lambda _: service.handle.where(), 4)}
        assert len(seen) == 1
        assert whereabouts() not in seen

    @needs("in_callers_thread")
    def test_calls_run_in_their_callers_threads(self) -> None:
        """A call runs in its caller's thread, also if it had to wait."""
        service = self.deploy()
        assert self.together(lambda _: service.handle.where() == whereabouts(), 8) == [True] * 8

    @needs("concurrent")
    @pytest.mark.parametrize("at_once", [2, 5])
    def test_as_many_calls_run_at_once_as_configured(self, at_once: int) -> None:
        """All slots are used at the same time, and no further call starts."""
        service = self.deploy(at_once=at_once)
        gate = self.watch()
        calls = [service.handle.submit("hold", gate.checkpoint) for _ in range(2 * at_once)]
        gate.wait(at_once)
        assert service.waiting == at_once
        assert gate.seen() == []
        gate.open()
        assert [call.result(self.patience) for call in calls] == [0] * 2 * at_once
        assert service.slots == at_once

    @needs("concurrent")
    def test_never_more_calls_at_once_than_slots(self) -> None:
        service = self.deploy(at_once=3)

        def caller(_: int) -> None:
            for _ in range(30):
                service.handle.overlap()

        self.together(caller, 8)
        assert 1 <= service.handle.most() <= 3

    @needs("concurrent")
    @unless("in_callers_thread")
    def test_threads_are_bounded_by_slots(self) -> None:
        """A replica has at most one thread for each slot, plus one for an event loop, however long the queue is."""
        service = self.deploy(at_once=3)
        gate = self.watch()
        for _ in range(30):
            service.handle.submit("hold", gate.checkpoint)
        gate.wait(service.slots)
        (replica,) = service.status["replicas"]
        assert 1 <= replica["threads"] <= service.slots + 1
        assert service.metrics.active_threads == replica["threads"]
        if self.declares("in_process"):
            assert len(self.replica_threads()) == replica["threads"]

    @needs("ordered")
    def test_calls_of_one_caller_run_in_order(self) -> None:
        """The calls of each caller run in the order in which they were made, however many are queued."""
        service = self.deploy(queue_size=2000)
        gate = self.watch()
        self.begin(service.handle, "hold", gate.checkpoint)
        gate.wait()

        def caller(number: int) -> None:
            calls = [service.handle.submit("do", [number, turn]) for turn in range(200)]
            calls[-1].result(self.patience)

        callers = [self.in_thread(caller, number) for number in range(4)]
        self.until(lambda: service.waiting >= (4 if self.declares("in_callers_thread") else 100))
        gate.open()  # while the callers go on
        for each in callers:
            each.result(self.patience)
        done = [each for each in service.handle.done() if each is not None]
        for number in range(4):
            assert [turn for caller, turn in done if caller == number] == list(range(200))

    @needs("ordered")
    @unless("in_callers_thread")
    def test_order_holds_while_calls_are_cancelled(self) -> None:
        """Calls that leave the queue do not change the order of the others."""
        service = self.deploy(queue_size=1000)
        occupied = self.occupy(service)
        calls = [service.handle.submit("do", number) for number in range(300)]
        gone = set(random.Random(7).sample(range(300), 150))  # noqa: S311 - no secret
        for number in gone:
            assert calls[number].cancel()
        occupied.open()
        assert service.handle.done() == [None, *(number for number in range(300) if number not in gone)]

    @needs("ordered")
    def test_waiting_callers_get_their_turn_in_order(self) -> None:
        """The caller that has waited longest gets the slot."""
        service = self.deploy()
        occupied = self.occupy(service)
        waiting = [self.queued(service, "do", number) for number in range(6)]
        occupied.open()
        for each in waiting:
            each.result(self.patience)
        assert service.handle.done() == [None, *range(6)]


class BoundCases(ServiceConformance):
    """At most `queue_size` calls wait. Further calls are refused, or block until there is room."""

    @pytest.mark.parametrize("queue_size", [0, 1, 5])
    def test_reject_is_exact_under_many_threads(self, queue_size: int) -> None:
        """However many threads call at once, exactly `queue_size` calls wait, and the others are refused."""
        service = self.deploy(queue_size=queue_size, overload="reject")
        occupied = self.occupy(service)
        accepted: list[Any] = []
        refused: list[errors.OverloadedError] = []
        start = threading.Barrier(12)

        def caller(number: int) -> None:
            start.wait(self.patience)
            try:
                accepted.append(service.handle.submit("do", number))  # for `in_callers_thread`, the call waits in here
            except errors.OverloadedError as error:
                refused.append(error)

        callers = [self.in_thread(caller, number) for number in range(12)]
        self.until(lambda: service.waiting + len(refused) == 12)
        assert service.waiting == queue_size
        assert {str(error).partition(":")[0] for error in refused} == {"svc.do was not accepted"}
        assert all(f"queue_size={queue_size}" in str(error) for error in refused)
        assert {(error.service, error.method) for error in refused} == {("svc", "do")}
        occupied.open()
        for each in callers:
            each.result(self.patience)
        assert [call.result(self.patience) for call in accepted] == [0] * queue_size
        self.until(lambda: service.inflight == 0)
        assert len([each for each in service.handle.done() if each is not None]) == queue_size
        assert service.metrics.rejected_count == 12 - queue_size

    @VERBS
    def test_reject_by_every_verb(self, verb: str) -> None:
        """A full queue refuses `call`, `submit` and `acall`, and a refused call never runs."""
        service = self.deploy(queue_size=1, overload="reject")
        occupied = self.occupy(service)
        waiting = self.queued(service, "echo", "waited")
        with pytest.raises(errors.OverloadedError, match="queue_size"):
            self.outcome(service.handle, verb, "do", "refused")
        occupied.open()
        assert waiting.result(self.patience) == "waited"
        self.occupy(service).open()
        assert "refused" not in service.handle.done()

    def test_free_slots_are_not_refused(self) -> None:
        """With `queue_size` 0, a call gets any free slot: a slot is free before its caller is released."""
        handle = self.deploy(queue_size=0, overload="reject").handle
        for turn in range(200):
            assert handle.echo(turn) == turn

    def test_every_slot_is_used_before_calls_are_refused(self) -> None:
        service = self.deploy(queue_size=0, overload="reject")
        occupied = self.occupy(service)
        with pytest.raises(errors.OverloadedError):
            service.handle.submit("echo")
        occupied.open()

    @unless("in_callers_thread")
    def test_room_of_calls_that_ran_is_room_again(self) -> None:
        """The queue can be filled again and again: no place is lost."""
        service = self.deploy(queue_size=3, overload="reject")
        for _ in range(20):
            occupied = self.occupy(service)
            calls = [service.handle.submit("echo", number) for number in range(3)]
            with pytest.raises(errors.OverloadedError):
                service.handle.submit("echo")
            occupied.open()
            assert [call.result(self.patience) for call in calls] == [0, 1, 2]
            self.until(lambda: service.inflight == 0)

    @unless("in_callers_thread")
    def test_room_of_cancelled_calls_is_room_again(self) -> None:
        """Cancelling queued calls makes room at once."""
        service = self.deploy(queue_size=2, overload="reject")
        occupied = self.occupy(service)
        for _ in range(20):
            calls = [service.handle.submit("echo") for _ in range(2)]
            with pytest.raises(errors.OverloadedError):
                service.handle.submit("echo")
            assert [call.cancel() for call in calls] == [True, True]
            assert service.waiting == 0
        last = service.handle.submit("echo", "last")
        occupied.open()
        assert last.result(self.patience) == "last"

    @unless("in_callers_thread")
    def test_room_of_expired_calls_is_room_again(self) -> None:
        """Calls past their deadline take no room, even if nobody waits for them: a stuck slot cannot fill the queue."""
        service = self.deploy(queue_size=5, overload="reject")
        occupied = self.occupy(service)
        hasty = service.handle.with_options(timeout=self.short)
        calls = [hasty.submit("echo") for _ in range(4)]
        with pytest.raises(errors.CallTimeoutError):
            hasty.echo()  # the last to expire, and the only one with a waiting caller
        following = [service.handle.submit("echo", number) for number in range(5)]
        with pytest.raises(errors.OverloadedError):
            service.handle.submit("echo")
        assert service.waiting == 5
        assert all(call.done() for call in calls)
        occupied.open()
        assert [call.result(self.patience) for call in following] == [0, 1, 2, 3, 4]

    def test_callers_that_left_take_no_room(self) -> None:
        """A `call` whose timeout ended in the queue has left the queue."""
        service = self.deploy(queue_size=1, overload="reject")
        occupied = self.occupy(service)
        for _ in range(3):
            with pytest.raises(errors.CallTimeoutError):
                service.handle.with_options(timeout=0.01).echo()
        assert service.waiting == 0
        occupied.open()

    @unless("in_callers_thread")
    @pytest.mark.parametrize("queue_size", [0, 2])
    def test_submit_blocks_until_there_is_room(self, queue_size: int) -> None:
        """With a full queue, `submit` blocks its caller until there is room."""
        service = self.deploy(queue_size=queue_size)
        occupied = self.occupy(service)
        waiting = [service.handle.submit("echo", number) for number in range(queue_size)]
        submitting = self.in_thread(service.handle.submit, "echo", "blocked")
        with pytest.raises(TimeoutError):
            submitting.result(self.short)
        assert service.waiting == queue_size, "who waits for room is not in the queue"
        occupied.open()
        assert submitting.result(self.patience).result(self.patience) == "blocked"
        assert [call.result(self.patience) for call in waiting] == list(range(queue_size))

    @pytest.mark.parametrize("queue_size", [0, 1])
    def test_bound_holds_while_callers_block(self, queue_size: int) -> None:
        """However many callers block, every call is answered, and never more than `queue_size` calls wait."""
        service = self.deploy(queue_size=queue_size)

        def caller(number: int) -> list[Any]:
            calls = [service.handle.submit("echo", [number, turn]) for turn in range(40)]
            return [call.result(self.patience) for call in calls]

        callers = [self.in_thread(caller, number) for number in range(8)]
        most = 0
        while not all(each.done() for each in callers):
            most = max(most, service.waiting)
        assert most <= queue_size
        for number, each in enumerate(callers):
            assert each.result(0) == [[number, turn] for turn in range(40)]

    @VERBS
    def test_no_room_before_the_deadline(self, verb: str) -> None:
        """A call that gets no room before its deadline fails with CallTimeoutError at stage "queue", and never runs."""
        service = self.deploy(queue_size=0)
        occupied = self.occupy(service)
        with pytest.raises(errors.CallTimeoutError) as caught:
            self.outcome(service.handle.with_options(timeout=self.short), verb, "do", "late")
        assert caught.value.stage == "queue"
        assert service.waiting == 0
        occupied.open()
        self.occupy(service).open()
        assert "late" not in service.handle.done()

    def test_no_room_before_the_queue_timeout(self) -> None:
        """`queue_timeout` includes the wait for room."""
        service = self.deploy(queue_size=0, queue_timeout=self.while_running)
        occupied = self.occupy(service)
        with pytest.raises(errors.CallTimeoutError) as caught:
            service.handle.echo()
        assert caught.value.stage == "queue"
        occupied.open()

    def test_acall_suspends_until_there_is_room(self) -> None:
        """With a full queue, `acall` suspends its task and the event loop goes on. Here the loop makes the room."""
        service = self.deploy(queue_size=0)
        occupied = self.occupy(service)

        async def main() -> list[Any]:
            calls = [asyncio.ensure_future(service.handle.acall("echo", number)) for number in range(3)]
            await asyncio.sleep(0)  # they begin
            occupied.open()
            return await asyncio.gather(*calls)

        assert asyncio.run(main()) == [0, 1, 2]

    def test_task_cancelled_while_it_waits_for_room(self) -> None:
        """A task that is cancelled while its call waits for room leaves nothing behind, and the call never runs."""
        service = self.deploy(queue_size=0)
        occupied = self.occupy(service)

        async def main() -> None:
            task = asyncio.ensure_future(service.handle.acall("do", "cancelled"))
            await asyncio.wait([task], timeout=self.short)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

        asyncio.run(main())
        occupied.open()
        self.occupy(service).open()
        assert "cancelled" not in service.handle.done()

    @unless("in_callers_thread")
    def test_close_releases_blocked_submitters(self) -> None:
        """When the service stops, callers that wait for room get ServiceStoppedError. Accepted calls are answered."""
        service = self.deploy(queue_size=1)
        occupied = self.occupy(service)
        waiting = service.handle.submit("echo", "accepted")
        submitting = self.in_thread(service.handle.submit, "echo")
        closing = self.in_thread(service.env.close)
        with pytest.raises(errors.ServiceStoppedError):
            submitting.result(self.patience)
        occupied.open()
        closing.result(self.patience)
        assert waiting.result(0) == "accepted"


class StormCases(ServiceConformance):
    """All kinds of outcomes at the same time."""

    @unless("in_callers_thread")
    @pytest.mark.parametrize("overload", ["block", "reject", "shed_oldest", "priority"])
    def test_every_call_has_one_outcome_in_a_storm(self, overload: str) -> None:
        """
        With results, errors, deadlines, cancellations and a stop at once, each accepted call ends and counts once.

        It counts under the outcome that its caller saw. There is one exception if replicas are in other processes: the
        answer may be on its way when the caller gives the call up. Then the call counts under the outcome of its
        method.
        """
        service = self.deploy(queue_size=20, overload=overload)
        stop = threading.Event()
        callers = [self.in_thread(_storm, service.handle, seed, stop, overload) for seed in range(6)]
        assert stop.wait(self.patience)
        service.env.close(drain_timeout=5)

        ended = [caller.result(self.patience) for caller in callers]
        outcomes = collections.Counter(_outcome(call) for accepted, _, _ in ended for call in accepted)
        outcomes["timeout"] += sum(ended_here for _, ended_here, _ in ended)
        counted = collections.Counter(service.outcomes)
        names = ("ok", "error", "cancelled", "timeout")
        assert all(outcomes[name] > 0 for name in names)
        apart = {name: counted[name] - outcomes[name] for name in names}
        if "in_process" not in self.declared():
            answered = {"ok", "error"}
            crossed = sum(apart[name] for name in answered)
            assert all((apart[name] >= 0) is (name in answered) for name in names if apart[name]), apart
            assert sum(apart.values()) == 0 <= crossed <= _CROSSED, apart
        else:
            assert not any(apart.values()), apart
        assert service.metrics.request_count == counted.total()
        assert (service.metrics.abandoned_count, service.waiting) == (0, 0)
        for _, _, watched in ended:
            assert len(watched) == len(set(watched)), "each done-callback ran once"


def _outcome(call: Any) -> str:
    """Return the name under which the counters should count the call."""
    assert call.done()
    return "cancelled" if call.cancelled() else _OUTCOMES[type(call.exception(0)).__name__]


def _storm(handle: Any, seed: int, stop: threading.Event, overload: str) -> tuple[list[Any], int, list[Any]]:
    """
    Make calls of all kinds, cancel some and watch some.

    Returns:
        The accepted calls, the number of timeouts in `submit`, and the calls whose callback ran.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret
    accepted: list[Any] = []
    ended_here = 0
    watched: list[Any] = []
    for turn in range(120):
        if (seed, turn) == (0, 90):
            stop.set()
        work = chance.choice([("echo", turn), ("fail", "storm"), ("overlap",)])
        options = {"priority": turn % 3} if overload == "priority" else {}
        try:
            call = handle.with_options(timeout=chance.choice([None, 0.001, 0.005, 5.0]), **options).submit(*work)
        except errors.CallTimeoutError:  # no room before the deadline
            ended_here += 1
        except (errors.OverloadedError, errors.ServiceStoppedError):
            pass
        else:
            accepted.append(call)
            if chance.random() < 0.3:
                call.cancel()
            if chance.random() < 0.3:
                call.add_done_callback(watched.append)
    return accepted, ended_here, watched
