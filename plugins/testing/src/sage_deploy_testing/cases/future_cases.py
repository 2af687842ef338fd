"""The rules for the future of every call on every target and strategy: waiting, cancelling, callbacks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from sage_deploy_testing.suites.conformance import needs, unless
from sage_deploy_testing.suites.probes import ProbeError
from sage_deploy_testing.suites.service_conformance import ServiceConformance
from sage_plugins import errors

__all__ = ["FutureCases"]


class FutureCases(ServiceConformance):
    """`submit` returns an object that behaves like any `concurrent.futures.Future`."""

    def test_future_is_over_when_its_call_is(self) -> None:
        future = self.deploy().handle.submit("echo", 5)
        assert isinstance(future, Future)
        assert future.result(self.patience) == 5
        assert (future.done(), future.running(), future.cancelled(), future.exception()) == (True, False, False, None)

    @unless("in_callers_thread")
    def test_submit_does_not_wait_for_the_method(self) -> None:
        """`submit` returns while the method runs. The future is running, and a wait for it can time out."""
        gate = self.watch()
        future = self.deploy().handle.submit("hold", gate.checkpoint)
        gate.wait()
        assert (future.done(), future.running()) == (False, True)
        with pytest.raises(TimeoutError) as caught:
            future.result(self.short)
        assert not isinstance(caught.value, errors.CallTimeoutError)
        with pytest.raises(TimeoutError):
            future.exception(self.short)
        gate.open()
        assert future.result(self.patience) == 0

    @needs("in_callers_thread")
    def test_submit_has_run_the_method(self) -> None:
        """The future is done when `submit` returns, and has the method's exception if it raised."""
        handle = self.deploy().handle
        assert handle.submit("echo").done()
        assert isinstance(handle.submit("fail", "text").exception(0), ProbeError)

    def test_future_that_nobody_keeps_ends_all_the_same(self) -> None:
        handle = self.deploy().handle
        ran = self.watch(held=False)
        handle.submit("hold", ran.checkpoint)
        ran.wait()

    @unless("in_callers_thread")
    def test_futures_work_with_wait(self) -> None:
        """`concurrent.futures.wait` accepts these futures, also together with others."""
        handle = self.deploy().handle
        first, rest = self.watch(), self.watch()
        calls = [handle.submit("hold", first.checkpoint)]
        calls += [handle.submit("hold", rest.checkpoint) for _ in range(3)]
        stranger: Future[None] = Future()
        first.wait()
        first.open()
        done, pending = concurrent.futures.wait([*calls, stranger], self.patience, concurrent.futures.FIRST_COMPLETED)
        assert calls[0] in done
        assert stranger in pending
        rest.open()
        stranger.set_result(None)
        done, pending = concurrent.futures.wait([*calls, stranger], self.patience)
        assert (len(done), pending) == (5, set())
        # All are done before the call of `wait`.
        assert concurrent.futures.wait(calls, 0).not_done == set()

    @unless("in_callers_thread")
    def test_wait_sees_the_first_exception(self) -> None:
        """FIRST_EXCEPTION ends the wait when a call fails, and not when one succeeds."""
        handle = self.deploy().handle
        gate, ended = self.watch(), threading.Event()
        failing, fine, stranger = handle.submit("hold_and_fail", gate.checkpoint), handle.submit("echo"), Future[None]()
        fine.add_done_callback(lambda _: ended.set())
        first = concurrent.futures.FIRST_EXCEPTION
        waiting = self.in_thread(concurrent.futures.wait, [failing, fine, stranger], return_when=first)
        gate.wait()
        gate.open()
        try:
            done, pending = waiting.result(self.patience)
        finally:
            stranger.set_result(None)
        assert failing in done
        assert stranger in pending
        assert ended.wait(self.patience)

    def test_as_completed_gives_each_call_once(self) -> None:
        handle = self.deploy().handle
        calls: list[Future[Any]] = [handle.submit("echo", number) for number in range(100)]
        done = [call.result() for call in concurrent.futures.as_completed(calls, self.patience)]
        assert sorted(done) == list(range(100))

    def test_futures_can_be_awaited(self) -> None:
        """`asyncio.wrap_future` makes a call awaitable, with its result or exception."""
        handle = self.deploy().handle

        async def main() -> None:
            assert await asyncio.wrap_future(handle.submit("echo", "value")) == "value"
            with pytest.raises(ProbeError):
                await asyncio.wrap_future(handle.submit("fail", "text"))

        asyncio.run(main())

    def test_callbacks_run_once_whenever_they_are_added(self) -> None:
        """A done-callback runs exactly once with the future, whether it was added before or after the end."""
        handle = self.deploy().handle
        seen: list[Any] = []
        if not self.declares("in_callers_thread"):
            gate, ended = self.watch(), threading.Event()
            future = handle.submit("hold", gate.checkpoint)
            gate.wait()
            future.add_done_callback(seen.append)
            future.add_done_callback(lambda _: ended.set())
            assert not seen
            gate.open()
            assert ended.wait(self.patience)
            assert seen == [future]
            seen.clear()
        future = handle.submit("echo")
        future.result(self.patience)
        future.add_done_callback(seen.append)
        assert seen == [future]

    @unless("in_callers_thread")
    @pytest.mark.parametrize("kind", [RuntimeError, SystemExit, asyncio.CancelledError])
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the last assertion checks it
    def test_callback_cannot_end_the_worker(self, kind: type[BaseException]) -> None:
        """A callback that raises, even SystemExit, ends no worker and prevents no other callback."""
        service = self.deploy()
        gate = self.watch()
        futures = [service.handle.submit("hold", gate.checkpoint) for _ in range(service.slots)]
        gate.wait(service.slots)
        seen: list[Any] = []

        def leave(_: Any) -> None:
            raise kind

        for future in futures:
            future.add_done_callback(leave)
            future.add_done_callback(seen.append)
        gate.open()
        for future in futures:
            assert future.result(self.patience) == 0
        self.until(lambda: len(seen) == len(futures))
        self.occupy(service).open()
        assert service.handle.echo("alive") == "alive"

    @unless("in_callers_thread")
    def test_queued_call_is_cancelled(self) -> None:
        """`cancel` of a queued call returns True. The call never runs, and `result` raises a CancelledError."""
        service = self.deploy()
        occupied = self.occupy(service)
        future = service.handle.submit("do", "cancelled")
        seen: list[Any] = []
        future.add_done_callback(seen.append)

        assert future.cancel()
        assert future.cancel(), "a second time"
        assert (future.cancelled(), future.done(), future.running()) == (True, True, False)
        self.until(lambda: seen == [future])
        assert service.waiting == 0
        with pytest.raises(errors.CallCancelledError) as caught:
            future.result(0)
        assert isinstance(caught.value, concurrent.futures.CancelledError)
        with pytest.raises(concurrent.futures.CancelledError):
            future.exception(0)
        occupied.open()
        self.occupy(service).open()
        assert "cancelled" not in service.handle.done()
        assert service.outcomes["cancelled"] == 1

    @unless("in_callers_thread")
    def test_running_call_is_not_cancelled(self) -> None:
        """`cancel` of a running call returns False, and its result arrives."""
        gate = self.watch()
        future = self.deploy().handle.submit("hold", gate.checkpoint)
        gate.wait()
        assert not future.cancel()
        gate.open()
        assert future.result(self.patience) == 0
        assert not future.cancelled()

    def test_ended_call_is_not_cancelled(self) -> None:
        future = self.deploy().handle.submit("echo", 1)
        future.result(self.patience)
        assert not future.cancel()
        assert future.result(0) == 1

    @unless("in_callers_thread")
    def test_call_is_started_or_cancelled_never_both(self) -> None:
        """A call either starts or is cancelled: if `cancel` returns True, the call never runs."""
        handle = self.deploy().handle
        expected = []
        for batch in range(20):
            calls = [handle.submit("do", batch * 20 + number) for number in range(20)]
            cancelled = {number for number, call in enumerate(calls) if call.cancel()}
            for call in calls:
                if not call.cancelled():
                    call.result(self.patience)
            expected += [batch * 20 + number for number in range(20) if number not in cancelled]
        assert sorted(handle.done()) == expected

    @unless("in_callers_thread")
    def test_cancelling_a_wrapped_future_cancels_the_call(self) -> None:
        service = self.deploy()
        occupied = self.occupy(service)
        call = service.handle.submit("echo")

        async def main() -> None:
            wrapped = asyncio.wrap_future(call)
            wrapped.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wrapped

        asyncio.run(main())
        assert call.cancelled()
        occupied.open()
