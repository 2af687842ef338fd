"""The rules for streams and batches, and for methods that return coroutines or generators unexpectedly."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from sage_deploy_testing.suites.conformance import needs, unless
from sage_deploy_testing.suites.disguised import Disguised
from sage_deploy_testing.suites.probes import Batching, ProbeError
from sage_deploy_testing.suites.service_conformance import VERBS, ServiceConformance
from sage_plugins import errors
from sage_plugins.call.stream import AHEAD

__all__ = ["BatchCases", "DisguisedCases", "StreamCases"]

_PRODUCERS = pytest.mark.parametrize("method", ["produce", "aproduce"])


class StreamCases(ServiceConformance):
    """Generator methods, sync and async."""

    @_PRODUCERS
    @pytest.mark.parametrize("verb", ["stream", "astream"])
    def test_items_come_in_order(self, method: str, verb: str) -> None:
        """Each item arrives once, in order. Afterwards the slot is free, and the stream counts as one call."""
        service = self.deploy()
        diary = self.watch(held=False)
        assert self.items(service.handle, verb, method, diary.checkpoint, 100) == list(range(100))
        self.until(lambda: service.inflight == 0)
        assert service.outcomes == {"ok": 1}
        assert diary.seen() == ["begun", "ended"]

    def items(self, handle: Any, verb: str, method: str, /, *args: Any) -> list[Any]:
        """Return all items of a stream, read with *verb*."""
        if verb == "stream":
            return list(handle.stream(method, *args))

        async def main() -> list[Any]:
            return [item async for item in handle.astream(method, *args)]

        return asyncio.run(main())

    @pytest.mark.parametrize("verb", ["stream", "astream"])
    def test_error_comes_after_the_items(self, verb: str) -> None:
        service = self.deploy()
        if verb == "stream":
            stream = service.handle.stream("produce_and_fail", 3)
            assert [next(stream) for _ in range(3)] == [0, 1, 2]
            with pytest.raises(ProbeError):
                next(stream)
        else:

            async def main() -> None:
                astream = service.handle.astream("produce_and_fail", 3)
                assert [await anext(astream) for _ in range(3)] == [0, 1, 2]
                with pytest.raises(ProbeError):
                    await anext(astream)

            asyncio.run(main())
        assert service.outcomes == {"error": 1}

    @_PRODUCERS
    @pytest.mark.parametrize("how", ["close", "with", "drop"])
    def test_stream_that_nobody_wants_ends_its_producer(self, method: str, how: str) -> None:
        """`close()`, leaving a `with` block or dropping the stream frees the slot, and counts as `ok`."""
        service = self.deploy()
        diary = self.watch(held=False)
        stream = service.handle.stream(method, diary.checkpoint, 10**6)
        assert next(stream) == 0
        assert diary.wait() == ["begun"]
        if how == "close":
            stream.close()
        elif how == "with":
            with stream:
                assert next(stream) == 1
        else:
            del stream
            gc.collect()
        assert diary.wait() == ["ended"]
        self.until(lambda: service.inflight == 0)
        self.until(lambda: service.outcomes == {"ok": 1})

    def test_open_stream_holds_its_slot(self) -> None:
        service = self.deploy()
        diary = self.watch(held=False)
        streams = [service.handle.stream("produce", diary.checkpoint, 10**6) for _ in range(service.slots)]
        diary.wait(service.slots)
        with pytest.raises(errors.CallTimeoutError) as caught:
            service.handle.with_options(timeout=self.short).echo()
        assert caught.value.stage == "queue"
        assert service.inflight == service.slots
        for stream in streams:
            stream.close()
        assert service.handle.echo(1) == 1

    def test_producer_is_not_far_ahead_of_its_consumer(self) -> None:
        handle = self.deploy().handle
        diary = self.watch(held=False)
        with handle.stream("produce_and_report", diary.checkpoint, 10**6) as stream:
            assert [next(stream) for _ in range(3)] == [0, 1, 2]
            diary.wait(AHEAD)
        assert len(diary.seen()) <= 3 + 1

    def test_timeout_bounds_the_wait_for_each_item(self) -> None:
        """`timeout` limits the wait for each item, not the whole stream."""
        service = self.deploy()
        gate = self.watch()
        stream = service.handle.with_options(timeout=self.while_running).stream("produce_and_hold", gate.checkpoint)
        assert next(stream) == 0
        with pytest.raises(errors.CallTimeoutError):
            next(stream)
        gate.open()
        self.until(lambda: service.inflight == 0)
        assert service.handle.echo(1) == 1

    @VERBS
    def test_call_of_a_generator_method_says_stream(self, verb: str) -> None:
        with pytest.raises(TypeError, match="stream"):
            self.outcome(self.deploy().handle, verb, "produce_and_fail", 3)

    def test_stream_of_another_method_says_call(self) -> None:
        with pytest.raises(TypeError, match="call"):
            self.deploy().handle.stream("echo", 3)


class DisguisedCases(ServiceConformance):
    """Methods that look plain but return a coroutine or generator: it never runs on the caller's side."""

    @VERBS
    @pytest.mark.parametrize("method", ["coroutine", "nested"])
    def test_hidden_coroutine_is_run_in_the_replica(self, verb: str, method: str) -> None:
        """The replica runs the coroutine, and the caller gets its result."""
        service = self.deploy(Disguised)
        assert self.outcome(service.handle, verb, method, 5) == 5
        assert len(service.handle.ran()) == 1

    @VERBS
    def test_hidden_coroutine_raises_its_error(self, verb: str) -> None:
        with pytest.raises(LookupError, match="five"):
            self.outcome(self.deploy(Disguised).handle, verb, "failing", "five")

    @VERBS
    @pytest.mark.parametrize("method", ["generator", "expression", "agenerator", "agives"])
    def test_hidden_generator_is_refused(self, verb: str, method: str) -> None:
        """The error says what to do, and the slot is free again."""
        service = self.deploy(Disguised)
        with pytest.raises(TypeError, match=f"svc.{method} returned a generator.*stream"):
            self.outcome(service.handle, verb, method, 5)
        assert self.outcome(service.handle, verb, "coroutine", 6) == 6

    def test_hidden_coroutine_answers_a_batch(self) -> None:
        """A coroutine may be the batch method. A coroutine or generator in its result fails only its own call."""
        service = self.deploy(Disguised, batch_size=4)
        assert service.handle.single("plain") == "plain"
        for hidden in ("generator", "coroutine"):
            with pytest.raises(TypeError, match=f"svc.together returned a {hidden}"):
                service.handle.single(hidden)

    @VERBS
    def test_call_is_no_argument(self, verb: str) -> None:
        """A `Call` as an argument is refused, because its result is meant. No call starts."""
        service = self.deploy()
        asked = service.handle.submit("echo", 5)
        for args in ((asked,), (1, asked)):
            with pytest.raises(TypeError, match=r"svc.echo was given a Call of 'echo'.*call.result\(\)"):
                self.outcome(service.handle, verb, "echo", *args)
        with pytest.raises(TypeError, match="was given a Call"):
            service.handle.stream("produce_and_fail", asked)
        assert asked.result(self.patience) == 5
        assert service.outcomes == {"ok": 1}


class BatchCases(ServiceConformance):
    """`batch_size`: the declared batch method answers several calls of a method together."""

    @pytest.mark.parametrize("method", ["get", "aget"])
    def test_every_call_goes_through_the_batch_method(self, method: str) -> None:
        """The batch method answers every call, even a single one. Each caller gets its own answer."""
        service = self.deploy(Batching, batch_size=4)
        assert [service.handle.call(method, key) for key in ("a", "b", "c")] == ["a!", "b!", "c!"]
        assert service.handle.sizes() == [1, 1, 1]

    @pytest.mark.parametrize("method", ["get", "aget"])
    def test_no_batch_is_larger_than_batch_size(self, method: str) -> None:
        """Of 80 calls from 8 threads, each caller gets its own answer, and no batch has more than 4 calls."""
        service = self.deploy(Batching, batch_size=4)
        answers = self.together(
            lambda number: [service.handle.call(method, f"{number}{turn}") for turn in range(10)], 8
        )
        assert answers == [[f"{number}{turn}!" for turn in range(10)] for number in range(8)]
        sizes = service.handle.sizes()
        assert (sum(sizes), max(sizes) <= 4) == (80, True)
        assert service.outcomes == {"ok": 81}

    @needs("one_at_a_time")
    @unless("in_callers_thread")
    def test_calls_that_wait_are_answered_together(self) -> None:
        service = self.deploy(Batching, batch_size=4)
        occupied = self.occupy(service)
        calls = [self.queued(service, "get", str(number)) for number in range(6)]
        occupied.open()
        assert [call.result(self.patience) for call in calls] == [f"{number}!" for number in range(6)]
        assert service.handle.sizes() == [4, 2]

    @pytest.mark.parametrize("method", ["get", "aget"])
    def test_bad_item_fails_alone(self, method: str) -> None:
        """An exception in the list of answers reaches only its own caller. A raised exception reaches all callers."""
        service = self.deploy(Batching, batch_size=4)
        occupied = self.occupy(service)
        calls = {key: self.queued(service, method, key) for key in ("good", "bad", "fine")}
        occupied.open()
        assert calls["good"].result(self.patience) == "good!"
        assert calls["fine"].result(self.patience) == "fine!"
        assert isinstance(calls["bad"].exception(self.patience), ProbeError)

    @unless("in_callers_thread")
    @pytest.mark.parametrize("method", ["get", "aget"])
    def test_the_next_batch_runs_although_somebody_watches_this_one(self, method: str) -> None:
        """A worker that runs the callbacks of one batch first hands the next batch to another worker."""
        service = self.deploy(Batching, batch_size=2, max_concurrency=1)
        occupied = self.occupy(service)
        calls = {str(number): self.queued(service, method, str(number)) for number in range(8)}
        for call in calls.values():
            call.add_done_callback(lambda _: None)
        occupied.open()
        assert [call.result(self.patience) for call in calls.values()] == [f"{key}!" for key in calls]

    @needs("one_at_a_time")
    @unless("in_callers_thread")
    def test_error_of_the_batch_method_is_everybodys(self) -> None:
        service = self.deploy(Batching, batch_size=4)
        occupied = self.occupy(service)
        calls = [self.queued(service, "get", key) for key in ("good", "fatal")]
        occupied.open()
        assert all(isinstance(call.exception(self.patience), ProbeError) for call in calls)
        assert service.handle.get("good") == "good!"

    @unless("in_callers_thread")
    def test_cancelled_call_leaves_the_queue_of_its_batch(self) -> None:
        """A cancelled call is not answered, and takes no place in the batch."""
        service = self.deploy(Batching, batch_size=4)
        occupied = self.occupy(service)
        calls = {key: self.queued(service, "get", key) for key in "abcde"}
        assert calls["b"].cancel()
        occupied.open()
        assert [calls[key].result(self.patience) for key in "acde"] == ["a!", "c!", "d!", "e!"]
        assert sorted(service.handle.answered()) == ["a", "c", "d", "e"]

    @unless("in_callers_thread")
    @pytest.mark.parametrize("method", ["get", "aget"])
    def test_cancelled_call_is_left_out_of_its_open_batch(self, method: str) -> None:
        """A call in a batch that waits for more calls can still be cancelled. The others are answered."""
        service = self.deploy(Batching, methods={method: {"batch": {"size": 10, "wait": self.patience / 2}}})
        calls = {key: service.handle.submit(method, key) for key in "abc"}
        assert calls["b"].cancel()
        # A batch never waits so long that one of its calls would miss its deadline.
        service.handle.with_options(timeout=self.while_running).submit(method, "d")
        assert [calls[key].result(self.patience) for key in "ac"] == ["a!", "c!"]
        assert "b" not in service.handle.answered()

    @unless("in_callers_thread")
    def test_cancelled_call_takes_no_place_in_its_open_batch(self) -> None:
        """Cancelled calls do not count when a batch fills up."""
        service = self.deploy(Batching, methods={"get": {"batch": {"size": 3, "wait": self.patience / 2}}})
        calls = {key: service.handle.submit("get", key) for key in "ab"}
        assert calls.pop("b").cancel()
        calls |= {key: service.handle.submit("get", key) for key in "cd"}
        assert [call.result(self.patience) for call in calls.values()] == ["a!", "c!", "d!"]
        assert service.handle.sizes() == [3]
