"""The rules for deadlines, queue included: the caller is released, and the method keeps its slot until it ends."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from sage_deploy_testing.suites.conformance import needs, needs_any, unless
from sage_deploy_testing.suites.probes import Calling
from sage_deploy_testing.suites.service_conformance import INNER_CALLS, VERBS, Deployed, ServiceConformance
from sage_plugins import errors

__all__ = ["CallbackCases", "DeadlineCases", "QueueDeadlineCases", "TravellingDeadlineCases"]


class QueueDeadlineCases(ServiceConformance):
    """Calls whose deadline passes before they start."""

    @VERBS
    def test_deadline_in_the_queue(self, verb: str) -> None:
        """A call whose deadline passes in the queue ends at stage "queue", and its method never runs."""
        service = self.deploy()
        occupied = self.occupy(service)
        hasty = service.handle.with_options(timeout=self.short)
        said = rf"svc\.do waited {self.short:g} s in the queue"
        with pytest.raises(errors.CallTimeoutError, match=said) as caught:
            self.outcome(hasty, verb, "do", "late")
        assert isinstance(caught.value, TimeoutError)
        assert (caught.value.stage, caught.value.service, caught.value.method) == ("queue", "svc", "do")
        assert (service.waiting, service.metrics.abandoned_count, service.outcomes) == (0, 0, {"timeout": 1})
        occupied.open()
        self.occupy(service).open()
        assert "late" not in service.handle.done()

    def test_queue_timeout_bounds_the_wait_alone(self) -> None:
        """`queue_timeout` ends only calls that wait. For a call that has started, only `timeout` counts."""
        service = self.deploy(queue_timeout=self.while_running)
        gate = self.watch()
        running = [self.begin(service.handle, "hold", gate.checkpoint) for _ in range(service.slots)]
        gate.wait(service.slots)
        with pytest.raises(errors.CallTimeoutError, match="queue") as caught:
            service.handle.call("echo")
        assert caught.value.stage == "queue"
        # By now, `queue_timeout` would long have ended the running calls.
        assert not any(call.done() for call in running)
        gate.open()
        assert [call.result(self.patience) for call in running] == [0] * service.slots

    @unless("in_callers_thread")
    def test_queue_timeout_of_a_future(self) -> None:
        """`queue_timeout` ends a submitted call even if no caller waits for it."""
        service = self.deploy(queue_timeout=self.while_running)
        occupied = self.occupy(service)
        ended: Future[Any] = Future()
        service.handle.submit("echo").add_done_callback(ended.set_result)
        assert ended.result(self.patience).exception(0).stage == "queue"
        occupied.open()

    @needs("releases_at_deadline")
    def test_queue_timeout_of_a_started_future(self) -> None:
        """`queue_timeout` does not end a call that has started. Its deadline does."""
        service = self.deploy(queue_timeout=self.while_running, timeout=2 * self.while_running)
        gate = self.watch()
        ended: Future[Any] = Future()
        service.handle.submit("hold", gate.checkpoint).add_done_callback(ended.set_result)
        gate.wait()
        assert ended.result(self.patience).exception(0).stage == "run"

    @unless("in_callers_thread")
    def test_future_in_the_queue_is_ended_by_the_clock(self) -> None:
        """A future with a callback ends at its deadline in the queue, even if no caller waits for it."""
        service = self.deploy()
        occupied = self.occupy(service)
        ended: Future[Any] = Future()
        service.handle.with_options(timeout=self.short).submit("echo").add_done_callback(ended.set_result)
        assert ended.result(self.patience).exception(0).stage == "queue"
        occupied.open()


class CallbackCases(ServiceConformance):
    """A done-callback that never returns blocks nothing, however its call ended."""

    @unless("in_callers_thread")
    @pytest.mark.parametrize("end", ["answer", "deadline", "cancel", "close"])
    def test_callback_that_never_returns_holds_up_nothing(self, end: str) -> None:
        """It blocks neither the worker or timer that ended the call, nor other calls, their callbacks, or `close`."""
        service = self.deploy()
        begun, released = threading.Event(), threading.Event()

        def hang(_: Any) -> None:
            begun.set()
            released.wait()

        occupied = self.occupy(service)
        hasty = service.handle.with_options(timeout=self.short if end == "deadline" else self.patience)
        call = hasty.submit("echo")
        call.add_done_callback(hang)
        try:
            if end == "cancel":
                assert call.cancel()
            elif end == "answer":
                occupied.open()
            elif end == "close":
                service.env.close(drain_timeout=0)
            assert begun.wait(self.patience)
            if end != "close":
                ended: Future[Any] = Future()
                service.handle.with_options(timeout=self.short).submit("echo").add_done_callback(ended.set_result)
                assert ended.result(self.patience).done()
                occupied.open()
                assert service.handle.echo("alive") == "alive"
                service.env.close()
        finally:
            occupied.open()
            released.set()


class DeadlineCases(ServiceConformance):
    """Calls whose deadline passes while their method runs."""

    @VERBS
    @needs("releases_at_deadline")
    def test_deadline_while_the_method_runs(self, verb: str) -> None:
        """The caller is released at stage "run" while the method hangs. The abandoned call keeps its slot."""
        service = self.deploy()
        gate = self.watch()
        hasty = service.handle.with_options(timeout=self.while_running)
        said = rf"gave no answer in {self.while_running:g} s \(replica svc#0\)"
        with pytest.raises(errors.CallTimeoutError, match=said) as caught:
            self.outcome(hasty, verb, "hold", gate.checkpoint, "late")
        assert (caught.value.stage, caught.value.replica) == ("run", "svc#0")
        gate.wait()
        assert (service.metrics.abandoned_count, service.inflight, service.outcomes) == (1, 1, {"timeout": 1})

        gate.open()
        self.until(lambda: service.metrics.abandoned_count == 0)
        assert service.handle.done() == ["late"], "the method ran to its end"
        assert service.inflight == 0
        assert service.outcomes == {"timeout": 1, "ok": 1}, "the late result is counted nowhere"

    def test_result_after_the_deadline_is_no_result(self) -> None:
        """A result after the deadline is a timeout at stage "run", even if the running method blocked its caller."""
        service = self.deploy()
        ended = self.watch(held=False)
        with pytest.raises(errors.CallTimeoutError) as caught:
            service.handle.with_options(timeout=self.while_running).call("outlast", ended.checkpoint)
        assert caught.value.stage == "run"
        assert ended.wait() == [[True, 0.0]], "the method saw that its time was over"
        self.until(lambda: service.metrics.abandoned_count == 0)
        assert service.outcomes == {"timeout": 1}
        assert service.handle.echo(1) == 1

    def test_method_sees_that_its_time_is_over_though_nobody_looks(self) -> None:
        """`ctx.cancelled` becomes true at the deadline, even if no caller waits."""
        service = self.deploy()
        ended = self.watch(held=False)
        future = service.handle.with_options(timeout=self.while_running).submit("outlast", ended.checkpoint)
        assert ended.wait() == [[True, 0.0]]
        with pytest.raises(errors.CallTimeoutError):
            future.result(self.patience)

    @needs("releases_at_deadline")
    def test_late_result_goes_nowhere(self) -> None:
        """The result of an abandoned call reaches neither its caller nor any other call."""
        service = self.deploy()
        gate = self.watch()
        hasty = service.handle.with_options(timeout=self.while_running)
        late = [hasty.submit("hold", gate.checkpoint) for _ in range(service.slots)]
        for call in late:
            with pytest.raises(errors.CallTimeoutError):
                call.result()
        following = service.handle.submit("echo", "own")
        gate.open()
        assert following.result(self.patience) == "own"
        for call in late:
            assert isinstance(call.exception(0), errors.CallTimeoutError)

    @needs("releases_at_deadline")
    def test_late_exception_goes_nowhere(self) -> None:
        service = self.deploy()
        gate = self.watch()
        with pytest.raises(errors.CallTimeoutError):
            service.handle.with_options(timeout=self.while_running).call("hold_and_fail", gate.checkpoint)
        assert service.outcomes == {"timeout": 1}
        gate.open()
        self.until(lambda: service.metrics.abandoned_count == 0)
        assert service.outcomes == {"timeout": 1}

    @needs("releases_at_deadline")
    def test_abandoned_method_keeps_its_slot(self) -> None:
        """While every slot is held by an abandoned method, no call starts. Calls start once the methods have ended."""
        service = self.deploy()
        gate = self.watch()
        hasty = service.handle.with_options(timeout=self.while_running)
        for call in [hasty.submit("hold", gate.checkpoint, "held") for _ in range(service.slots)]:
            with pytest.raises(errors.CallTimeoutError):
                call.result(self.patience)
        waiting = service.handle.submit("do", "waited")
        with pytest.raises(errors.CallTimeoutError) as caught:
            hasty.call("do", "hasty")
        assert caught.value.stage == "queue"
        assert not waiting.running()
        gate.open()
        waiting.result(self.patience)
        self.until(lambda: service.inflight == 0)
        assert sorted(service.handle.done()) == ["held"] * service.slots + ["waited"]

    @needs("releases_at_deadline", "one_at_a_time")
    def test_calls_wait_for_an_abandoned_method(self) -> None:
        """A replica that runs one call at a time starts no call before an abandoned method has ended."""
        service = self.deploy()
        gate = self.watch()
        with pytest.raises(errors.CallTimeoutError):
            service.handle.with_options(timeout=self.while_running).call("hold", gate.checkpoint, "abandoned")
        waiting = service.handle.submit("do", "waited")
        gate.open()
        waiting.result(self.patience)
        assert service.handle.done() == ["abandoned", "waited"]

    @needs("releases_at_deadline", "concurrent")
    def test_other_slots_go_on_beside_an_abandoned_method(self) -> None:
        """An abandoned method takes only its own slot."""
        service = self.deploy()
        gate = self.watch()
        with pytest.raises(errors.CallTimeoutError):
            service.handle.with_options(timeout=self.while_running).call("hold", gate.checkpoint)
        assert [service.handle.echo(turn) for turn in range(5)] == list(range(5))
        gate.open()

    @needs("releases_at_deadline")
    def test_async_method_past_its_deadline(self) -> None:
        """A coroutine that hangs releases its caller at the deadline."""
        service = self.deploy()
        gate = self.watch()
        with pytest.raises(errors.CallTimeoutError) as caught:
            service.handle.with_options(timeout=self.while_running).call("ahold", gate.checkpoint)
        assert caught.value.stage == "run"
        gate.open()
        self.until(lambda: service.inflight == 0)
        assert service.handle.call("aecho", 1) == 1

    def test_methods_own_timeout_error_is_no_deadline(self) -> None:
        """A TimeoutError that the method raises reaches the caller unchanged."""
        with pytest.raises(TimeoutError) as caught:
            self.deploy().handle.fail_as(TimeoutError)
        assert not isinstance(caught.value, errors.CallTimeoutError)

    @needs("releases_at_deadline")
    def test_unwatched_future_is_over_when_it_is_looked_at(self) -> None:
        """A submitted call ends at its deadline even if no caller waits. The next look at the future finds it done."""
        service = self.deploy()
        gate = self.watch()
        future = service.handle.with_options(timeout=self.while_running).submit("hold", gate.checkpoint)
        gate.wait()
        self.until(future.done)
        assert isinstance(future.exception(0), errors.CallTimeoutError)
        assert service.metrics.abandoned_count == 1

    @needs("releases_at_deadline")
    def test_future_is_ended_by_the_clock_while_it_runs(self) -> None:
        """A future with a callback ends at its deadline while its method runs, even if no caller waits for it."""
        gate = self.watch()
        ended: Future[Any] = Future()
        handle = self.deploy().handle.with_options(timeout=self.while_running)
        handle.submit("hold", gate.checkpoint).add_done_callback(ended.set_result)
        assert ended.result(self.patience).exception(0).stage == "run"

    @needs("releases_at_deadline")
    def test_awaited_future_is_ended_by_the_clock(self) -> None:
        """`asyncio.wrap_future` of a call ends at the call's deadline."""
        gate = self.watch()
        handle = self.deploy().handle.with_options(timeout=self.while_running)

        async def main() -> None:
            with pytest.raises(errors.CallTimeoutError):
                await asyncio.wrap_future(handle.submit("hold", gate.checkpoint))

        asyncio.run(main())

    @needs("releases_at_deadline")
    def test_several_threads_wait_for_one_deadline(self) -> None:
        """All threads that wait for a call are released at its deadline, with the same error object."""
        gate = self.watch()
        future = self.deploy().handle.with_options(timeout=self.while_running).submit("hold", gate.checkpoint)
        seen = self.together(lambda _: future.exception(), 4)
        assert {id(error) for error in seen} == {id(future.exception(0))}

    def test_limit_per_method(self) -> None:
        """
        `methods.<name>.timeout` overrides the service's, and `with_options(timeout=)` overrides both.

        Other options leave it unchanged.
        """
        unlimited = self.deploy(timeout=100.0, methods={"remaining": {"timeout": None}}).handle
        assert unlimited.remaining() is None
        quick = self.deploy(timeout=100.0, methods={"remaining": {"timeout": 5.0}}).handle
        assert 0 < quick.remaining() < 5
        assert 500 < quick.with_options(timeout=1000).remaining() < 1000
        assert quick.with_options(timeout=None).remaining() is None
        assert 0 < quick.with_options(key="k").remaining() < 5
        plain = self.deploy(timeout=100.0).handle
        assert 50 < plain.remaining() < 100

    @needs("releases_at_deadline")
    def test_limit_per_method_ends_a_call(self) -> None:
        gate = self.watch()
        handle = self.deploy(timeout=None, methods={"hold": {"timeout": self.while_running}}).handle
        with pytest.raises(errors.CallTimeoutError) as caught:
            handle.call("hold", gate.checkpoint)
        assert (caught.value.stage, caught.value.method) == ("run", "hold")


class TravellingDeadlineCases(ServiceConformance):
    """Nested calls inherit the outer call's deadline."""

    def pair(self) -> tuple[Deployed, Deployed]:
        """Deploy a service that calls, and one that it calls. Neither has a timeout of its own."""
        outer = self.register(Calling, name="outer", timeout=None)
        inner = self.register(name="inner", env=outer.env, timeout=None)
        outer.env.deploy()
        return outer, inner

    @needs_any(*INNER_CALLS)
    @pytest.mark.parametrize("verb", ["ask", "ask_by_future", "ask_async"])
    def test_inner_calls_have_the_time_that_remains(self, verb: str) -> None:
        outer, _ = self.pair()
        assert outer.handle.call(verb, "inner", "remaining") is None, "without a limit there is none"
        limited = outer.handle.with_options(timeout=100)
        assert 50 < limited.call(verb, "inner", "remaining") < 100

    @needs_any(*INNER_CALLS)
    @pytest.mark.parametrize("verb", ["ask", "ask_by_future"])
    def test_the_shorter_limit_holds_for_inner_calls(self, verb: str) -> None:
        outer, _ = self.pair()
        limited = outer.handle.with_options(timeout=100)
        assert 0 < limited.call(verb, "inner", "remaining", timeout=5) < 5
        assert 50 < limited.call(verb, "inner", "remaining", timeout=500) < 100

    @needs_any(*INNER_CALLS)
    def test_inner_call_is_given_up_with_the_outer(self) -> None:
        """A nested call ends at the outer call's deadline, even if its own service has no timeout."""
        outer, inner = self.pair()
        occupied = self.occupy(inner)
        ended = self.watch(held=False)
        with pytest.raises(errors.CallTimeoutError):
            outer.handle.with_options(timeout=self.while_running).call(
                "ask_and_report", ended.checkpoint, "inner", "do", "given up"
            )
        assert ended.wait() == [["CallTimeoutError", "inner", "queue"]]
        occupied.open()
        self.occupy(inner).open()
        assert "given up" not in inner.handle.done()

    @needs_any(*INNER_CALLS)
    @needs("releases_at_deadline")
    def test_running_inner_call_is_given_up_with_the_outer(self) -> None:
        outer, _ = self.pair()
        gate, ended = self.watch(), self.watch(held=False)
        with pytest.raises(errors.CallTimeoutError):
            outer.handle.with_options(timeout=self.while_running).call(
                "ask_and_report", ended.checkpoint, "inner", "hold", gate.checkpoint
            )
        assert ended.wait() == [["CallTimeoutError", "inner", "run"]]

    @needs_any(*INNER_CALLS)
    def test_method_whose_time_is_over_starts_no_further_calls(self) -> None:
        outer, inner = self.pair()
        ended = self.watch(held=False)
        with pytest.raises(errors.CallTimeoutError):
            outer.handle.with_options(timeout=self.while_running).call(
                "ask_too_late", ended.checkpoint, "inner", "do", "late"
            )
        assert ended.wait() == [["CallTimeoutError", "inner", "queue"]]
        assert inner.handle.done() == []

    @needs_any(*INNER_CALLS)
    @unless("in_callers_thread")
    def test_calls_of_a_cancelled_call_are_given_up_with_it(self) -> None:
        """When a call is given up, its nested calls are given up too. Those that have not started never start."""
        outer, inner = self.pair()
        occupied = self.occupy(inner)
        made, ended = self.watch(), self.watch(held=False)
        call = outer.handle.submit("submit_and_report", made.checkpoint, ended.checkpoint, "inner", "do", "given up")
        made.wait()
        call.abandon()
        assert ended.wait() == ["cancelled"]
        made.open()
        occupied.open()
        self.occupy(inner).open()
        assert "given up" not in inner.handle.done()

    @needs_any(*INNER_CALLS)
    @unless("in_callers_thread")
    def test_calls_of_a_call_that_ended_go_on(self) -> None:
        """A call that a method submitted goes on after the method has answered, whatever the method's caller does."""
        outer, inner = self.pair()
        occupied = self.occupy(inner)
        made, ended = self.watch(held=False), self.watch(held=False)
        call = outer.handle.submit("submit_and_report", made.checkpoint, ended.checkpoint, "inner", "do", "goes on")
        call.result(self.patience)
        assert not call.abandon()
        occupied.open()
        assert ended.wait() == ["ended"]
        assert "goes on" in inner.handle.done()

    @needs_any(*INNER_CALLS)
    def test_error_of_an_inner_call_arrives_outside(self) -> None:
        outer, _ = self.pair()
        with pytest.raises(errors.MethodNotFoundError, match="did you mean 'echo'"):
            outer.handle.call("ask", "inner", "ecco")

    @needs("in_process")
    def test_calls_from_within_get_as_far_as_there_are_slots(self) -> None:
        """A service may call itself once for each slot. One more call fails at once with ReentrantCallError."""
        service = self.deploy(Calling, timeout=None)
        call: tuple[Any, ...] = ("echo", "innermost")
        for _ in range(service.slots - 1):
            call = ("ask", "svc", *call)
        assert service.handle.with_options(timeout=self.patience).call(*call) == "innermost"
        with pytest.raises(errors.ReentrantCallError, match=r"svc\.echo would never start"):
            service.handle.call("ask", "svc", *call)
        assert service.handle.call(*call) == "innermost"

    @needs_any(*INNER_CALLS)
    def test_stuck_service_leaves_others_alone(self) -> None:
        """A service whose slots all hang does not affect another service."""
        outer, inner = self.pair()
        occupied = self.occupy(inner)
        for turn in range(5):
            assert outer.handle.echo(turn) == turn
        occupied.open()
