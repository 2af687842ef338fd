"""The rules for every call on every target and strategy: results, errors, coroutines."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import traceback
from typing import Any

import pytest

from sage_deploy_testing.suites.conformance import needs, unless
from sage_deploy_testing.suites.probes import Late, Probe, ProbeError
from sage_deploy_testing.suites.service_conformance import VERBS, ServiceConformance
from sage_plugins import errors

__all__ = ["CallCases", "CoroutineCases", "ErrorCases"]

_WORD: contextvars.ContextVar[str] = contextvars.ContextVar("word", default="unset")


def _raise(error: BaseException) -> None:
    raise error


async def _get_word() -> str:
    return _WORD.get()


class CallCases(ServiceConformance):
    """Arguments, results and context of a call."""

    @VERBS
    def test_arguments_reach_the_method_under_any_name(self, verb: str) -> None:
        """Positional and keyword arguments arrive as given, also under names that the handle uses itself."""
        handle = self.deploy().handle
        words = {"method": 1, "timeout": 2, "self": 3, "key": 4, "args": 5, "kwargs": 6, "call": 7, "name": 8}
        args, kwargs = self.outcome(handle, verb, "given", 1, None, **words)
        assert (list(args), kwargs) == ([1, None], words)

    @VERBS
    def test_result_is_what_the_method_returns(self, verb: str) -> None:
        handle = self.deploy().handle
        for value in (None, 0, "text", [1, {"two": 3.0}], b"bytes"):
            assert self.outcome(handle, verb, "echo", value) == value

    def test_attribute_call_is_a_call(self) -> None:
        assert self.deploy().handle.echo("value") == "value"

    @VERBS
    @needs("in_process")
    def test_arguments_and_results_travel_by_reference(self, verb: str) -> None:
        handle = self.deploy().handle
        for given in (object(), ValueError("an exception that is returned is a result like any other")):
            assert self.outcome(handle, verb, "echo", given) is given

    @VERBS
    def test_async_method_is_awaited_for_the_caller(self, verb: str) -> None:
        assert self.outcome(self.deploy().handle, verb, "aecho", 42) == 42

    def test_async_method_can_be_called_from_a_thread_with_a_running_loop(self) -> None:
        """A caller that blocks its own event loop gets its result and a BlockingCallWarning."""
        handle = self.deploy().handle

        async def main() -> Any:
            with pytest.warns(errors.BlockingCallWarning, match="acall"):
                return handle.call("aecho", "value")

        assert asyncio.run(main()) == "value"

    def test_calls_of_many_threads_each_run_once(self) -> None:
        """Of 200 calls from 8 threads, each caller gets its own results, and each call runs once and counts once."""
        service = self.deploy()
        calls = [(number, turn) for number in range(8) for turn in range(25)]

        def caller(number: int) -> list[Any]:
            return [[service.handle.do([number, turn]), service.handle.echo([number, turn])] for turn in range(25)]

        for number, results in enumerate(self.together(caller, 8)):
            assert results == [[0, [number, turn]] for turn in range(25)]
        assert sorted(map(tuple, service.handle.done())) == calls
        assert service.outcomes == {"ok": 401}
        assert service.metrics.request_count == 401
        assert (service.inflight, service.waiting) == (0, 0)

    @VERBS
    @needs("in_process")
    def test_method_sees_the_callers_context_variables(self, verb: str) -> None:
        handle = self.deploy().handle
        token = _WORD.set("the caller's")
        try:
            assert self.outcome(handle, verb, "run", _WORD.get) == "the caller's"
            assert self.outcome(handle, verb, "arun", _get_word) == "the caller's"
        finally:
            _WORD.reset(token)

    @VERBS
    @needs("in_process")
    def test_methods_changes_of_context_variables_stay_with_its_call(self, verb: str) -> None:
        """Neither the caller nor the next call sees a context variable that a method sets."""
        handle = self.deploy().handle
        self.outcome(handle, verb, "run", _WORD.set, "changed")
        assert _WORD.get() == "unset"
        assert self.outcome(handle, verb, "run", _WORD.get) == "unset"


class ErrorCases(ServiceConformance):
    """The outcome of a call whose method raises."""

    @VERBS
    @pytest.mark.parametrize("method", ["fail", "afail"])
    def test_exception_keeps_type_and_content(self, verb: str, method: str) -> None:
        with pytest.raises(ProbeError) as caught:
            self.outcome(self.deploy().handle, verb, method, "text", {"as": "given"})
        assert type(caught.value) is ProbeError
        assert (caught.value.args, caught.value.detail) == (("text", {"as": "given"}), {"as": "given"})

    @VERBS
    @needs("in_process")
    @pytest.mark.parametrize(
        "error",
        [
            ProbeError("text"),
            KeyError("missing"),
            TimeoutError("the method's own"),
            concurrent.futures.CancelledError("the method's own"),
            ExceptionGroup("several", [ValueError(1), ProbeError("two")]),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_exception_is_the_methods_own_object(self, verb: str, error: Exception) -> None:
        """The caller gets the exception object that the method raised. Its traceback has the method's frames."""
        error.__traceback__ = None
        with pytest.raises(type(error)) as caught:
            self.outcome(self.deploy().handle, verb, "run", _raise, error)
        assert caught.value is error
        assert "_raise" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]

    @needs("in_process")
    def test_exception_keeps_its_cause(self) -> None:
        with pytest.raises(ValueError, match="outer") as caught:
            self.deploy().handle.fail_after("outer")
        assert isinstance(caught.value.__cause__, ProbeError)

    def test_exception_of_a_future_is_there_again_and_again(self) -> None:
        """`exception()` returns the method's exception, and every `result()` raises it."""
        future = self.begin(self.deploy().handle, "fail", "text")
        error = future.exception(self.patience)
        assert isinstance(error, ProbeError)
        for _ in range(2):
            with pytest.raises(ProbeError) as caught:
                future.result(0)
            assert caught.value is error

    def test_own_cancelled_error_is_no_cancellation(self) -> None:
        """A CancelledError that the method raises is its exception: the call was not cancelled."""
        future = self.deploy().handle.submit("fail_as", concurrent.futures.CancelledError)
        assert isinstance(future.exception(self.patience), concurrent.futures.CancelledError)
        assert not future.cancelled()

    def test_wrong_arguments_are_the_methods_type_error(self) -> None:
        with pytest.raises(TypeError, match="echo"):
            self.deploy().handle.echo(1, 2, 3)

    def test_stop_iteration_arrives_from_call(self) -> None:
        with pytest.raises(StopIteration):
            self.deploy().handle.fail_as(StopIteration)

    def test_stop_iteration_becomes_remote_error_in_a_coroutine(self) -> None:
        """A coroutine cannot raise StopIteration, so `acall` raises a RemoteError that names it."""
        with pytest.raises(errors.RemoteError, match="StopIteration") as caught:
            asyncio.run(self.deploy().handle.acall("fail_as", StopIteration))
        assert caught.value.type_name == "StopIteration"

    @VERBS
    @pytest.mark.parametrize("method", ["fail_as", "afail_as"])
    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
    def test_exit_becomes_remote_error_and_the_worker_lives(
        self, verb: str, method: str, kind: type[BaseException]
    ) -> None:
        """An exception that would end a thread, process or task becomes RemoteError, and every slot stays usable."""
        service = self.deploy()
        for _ in range(service.slots):
            with pytest.raises(
                errors.RemoteError, match=f"{kind.__name__}.*leaving|leaving.*{kind.__name__}"
            ) as caught:
                self.outcome(service.handle, verb, method, kind)
        assert (caught.value.type_name, caught.value.original_message) == (kind.__name__, "leaving")
        assert f"in {method}" in caught.value.traceback_text
        assert (caught.value.service, caught.value.method, caught.value.replica) == ("svc", method, "svc#0")
        self.occupy(service).open()
        assert service.handle.echo("alive") == "alive"


class CoroutineCases(ServiceConformance):
    """`acall` from any event loop."""

    def test_acall_from_several_loops(self) -> None:
        """`acall` works from loops in different threads at the same time."""
        handle = self.deploy().handle

        def caller(number: int) -> list[Any]:
            async def main() -> list[Any]:
                return await asyncio.gather(*(handle.acall("echo", [number, turn]) for turn in range(20)))

            return asyncio.run(main())

        assert self.together(caller, 3) == [[[number, turn] for turn in range(20)] for number in range(3)]

    def test_acall_does_not_block_its_loop(self) -> None:
        """`acall` does not block its event loop: here the loop opens the gate for which the method waits."""
        handle = self.deploy().handle
        gate = self.watch()

        async def main() -> Any:
            call = asyncio.ensure_future(handle.acall("hold", gate.checkpoint))
            await asyncio.to_thread(gate.wait)
            gate.open()
            return await call

        assert asyncio.run(main()) == 0

    def test_first_acall_does_not_block_its_loop(self) -> None:
        """An `acall` that has to deploy the service first does not block its event loop."""
        gate, diary = self.watch(), self.watch(held=False)
        handle = self.register(Late, diary.checkpoint, gate.checkpoint).handle

        async def main() -> Any:
            call = asyncio.ensure_future(handle.acall("method"))
            await asyncio.to_thread(gate.wait)
            gate.open()
            return await call

        assert asyncio.run(main()) is None

    def test_cancelling_the_task_cancels_a_queued_call(self) -> None:
        """A call whose awaiting task is cancelled before the call starts never runs."""
        service = self.deploy(Probe)
        occupied = self.occupy(service)

        async def main() -> None:
            task = asyncio.ensure_future(service.handle.acall("do", "cancelled"))
            await asyncio.to_thread(self.until, lambda: service.waiting == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert service.waiting == 0
        occupied.open()
        self.occupy(service).open()
        assert "cancelled" not in service.handle.done()
        assert service.outcomes["cancelled"] == 1

    def test_cancelling_the_task_abandons_a_running_call(self) -> None:
        """A cancelled task ends at once. The method keeps its slot until it ends, and its result is discarded."""
        service = self.deploy()
        gate = self.watch()

        async def main() -> None:
            task = asyncio.ensure_future(service.handle.acall("hold", gate.checkpoint))
            await asyncio.to_thread(gate.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())  # ends while the method still runs
        assert (service.metrics.abandoned_count, service.inflight) == (1, 1)
        gate.open()
        self.until(lambda: service.metrics.abandoned_count == 0)
        assert service.handle.echo(1) == 1
        assert service.outcomes == {"cancelled": 1, "ok": 1}

    @VERBS
    @unless("in_callers_thread")
    def test_giving_up_a_running_coroutine_cancels_it(self, verb: str) -> None:
        """`cancel`, a cancelled task and a deadline each end a running coroutine, and free its slot."""
        service = self.deploy()
        gate, ended = self.watch(), self.watch(held=False)
        work = ("hang", gate.checkpoint, ended.checkpoint)

        async def main() -> None:
            task = asyncio.ensure_future(service.handle.acall(*work))
            await asyncio.to_thread(gate.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        if verb == "acall":
            asyncio.run(main())
        elif verb == "submit":
            call = service.handle.submit(*work)
            gate.wait()
            assert call.cancel()
            assert call.cancelled()
        else:
            with pytest.raises(errors.CallTimeoutError, match="cancelled"):
                service.handle.with_options(timeout=self.while_running).call(*work)
            gate.wait()
        assert ended.wait() == ["cancelled"]
        self.until(lambda: service.inflight == 0)
        assert service.outcomes == {"timeout" if verb == "call" else "cancelled": 1}
        assert service.handle.call("aecho", 1) == 1

    def test_method_sees_that_its_task_was_cancelled(self) -> None:
        """`ctx.cancelled` becomes true when the awaiting task is cancelled."""
        service = self.deploy()
        gate, after = self.watch(), self.watch(held=False)

        async def main() -> None:
            task = asyncio.ensure_future(service.handle.acall("hold_and_look", gate.checkpoint, after.checkpoint))
            assert await asyncio.to_thread(gate.wait) == [False]
            task.cancel()
            await asyncio.wait([task])

        asyncio.run(main())
        gate.open()
        assert after.wait() == [True]
