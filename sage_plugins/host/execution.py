"""
What happens around a service's method: deadline, claim, context, record, free the slot, release the caller.

`Envelope.worker` composes it for a thread; `loop_envelope` has the same for an event loop. Both go on to the call that
waits for the slot.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

from sage_plugins.call.call import CURRENT, Call
from sage_plugins.call.lazy_future import FINISHED
from sage_plugins.errors import RemoteError, text_of
from sage_plugins.host.steps import Step
from sage_plugins.values import MethodKind, Outcome

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence

    from sage_plugins.call.batch import Batch
    from sage_plugins.clock import Clock
    from sage_plugins.host.thread_loop import WorkerLoop
    from sage_plugins.interfaces import Recorder, ReplicaEvents, Work
    from sage_plugins.values import ReplicaSpec

__all__ = ["Envelope", "batch_context", "longest"]

#: `record(method, outcome, wait_s, run_s)`, for one worker.
_Record: TypeAlias = "Callable[[int, int, float, float], None]"


class Envelope:
    """
    The methods of one instance, as its workers run them.

    Attributes:
        spec: The replica's.
        clock: For deadlines and durations.
        on_loop: Whether coroutines run on an event loop of the strategy's, rather than in the workers' own threads.
        event_loop: That loop, once it runs.
        table: Bound methods by index, once the instance exists.
        batches: For methods answered together: the bound batch method, and what makes its arguments of a call's.
        tasks: The running calls that are coroutines.
        steps: The steps of the replica's life that run on the event loop.
        handed: Calls and batches that the loop has left to a thread and none has taken yet.
        running: For each worker the calls that it runs, by the identity of that list.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - made in one place, by the host
        self,
        spec: ReplicaSpec,
        clock: Clock,
        events: ReplicaEvents,
        recorders: Sequence[Recorder],
        loop: WorkerLoop,
        inbox: Callable[[Work], None],
    ) -> None:
        """
        Prepare; nothing can run before `bind`.

        Args:
            spec: The replica's.
            clock: For deadlines and durations.
            events: Told of slots that are free.
            recorders: Count the calls.
            loop: Runs coroutines in the workers' threads.
            inbox: Gives work to another worker.
        """
        self.spec = spec
        self.clock = clock
        self.on_loop = False
        self.event_loop: asyncio.AbstractEventLoop | None = None
        self.table: list[Callable[..., Any]] = []
        self.batches: dict[int, tuple[Callable[..., Any], Callable[..., tuple[Any, ...]]]] = {}
        self.tasks: set[Call] = set()
        self.steps: set[asyncio.Task[None]] = set()
        self._events = events
        self._recorders = recorders
        self._loop = loop
        self._inbox = inbox
        self.handed: set[Work] = set()
        self.running: dict[int, Collection[Call | None]] = {}
        self._recorder_told = False
        self.latest = -inf  # `monotonic()` when a call ended last; written by whichever worker, so it may lag by a call

    # -- the instance's methods --------------------------------------------------------------------------------------

    def bind(self, instance: Any) -> None:
        """Run calls on *instance* from now on."""
        for method in self.spec.methods:
            self.table.append(self._bound(instance, method.name, method.kind))
            batch = method.batch
            if batch is not None:
                from sage_plugins.call.batch import binder  # few services need it, as the streams below

                bound = self._bound(instance, batch.name, batch.kind)
                self.batches[method.index] = (bound, binder(getattr(instance, method.name)))

    def _bound(self, instance: Any, name: str, kind: MethodKind) -> Callable[..., Any]:
        bound: Callable[..., Any] = getattr(instance, name)
        if kind is MethodKind.GENERATOR:
            from sage_plugins.call.stream import produce

            return lambda *args, **kwargs: produce(bound(*args, **kwargs))
        if kind is MethodKind.ASYNC_GENERATOR:
            from sage_plugins.call.stream import produce_async

            generator = bound
            bound = lambda *args, **kwargs: produce_async(generator(*args, **kwargs))  # noqa: E731 - it is one of four
        elif kind is MethodKind.SYNC:
            return bound
        if self.on_loop:
            return bound
        run = self._loop.run
        return lambda *args, **kwargs: run(self._stoppable(bound(*args, **kwargs)))

    async def _stoppable(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """*coroutine*, on a worker's own loop, ended when its call is given up and at its deadline."""
        import asyncio

        call = CURRENT.get()
        task = asyncio.current_task()
        if call is None or task is None or call.batch is not None:
            return await coroutine
        loop = asyncio.get_running_loop()
        timer = None
        self.tasks.add(call)
        call.task = task
        try:
            if call.settled():  # given up before it could be stopped
                coroutine.close()
                raise asyncio.CancelledError
            if call.deadline < inf:
                timer = loop.call_later(max(0.0, call.deadline - self.clock.monotonic()), call.expire)
            return await coroutine
        finally:
            self.tasks.discard(call)
            call.task = None
            if timer is not None:
                timer.cancel()

    def cancel(self, call: Call) -> None:
        """Cancel the coroutine that answers *call*, if one does."""
        task = call.task
        if task is not None:
            try:
                task.get_loop().call_soon_threadsafe(task.cancel)
            except RuntimeError:  # the loop was closed, and the task with it
                return

    def calls_running(self) -> list[Call]:
        """The calls that were started, or left to a thread, and have not ended."""
        cells = [call for cell in tuple(self.running.values()) for call in tuple(cell) if call is not None]
        return list(dict.fromkeys([*cells, *tuple(self.tasks), *self.calls_of(tuple(self.handed))]))

    @staticmethod
    def calls_of(works: Iterable[Work]) -> list[Call]:
        """The calls in pieces of work."""
        return [call for work in works for call in ([work] if isinstance(work, Call) else work.calls)]

    # -- a worker's thread -------------------------------------------------------------------------------------------

    def worker(self) -> Callable[[Any], bool]:  # noqa: C901, PLR0915 - see `execute`
        """A worker's `execute`, with all that has one answer decided."""
        monotonic, table = self.clock.monotonic, self.table
        follow = self._free if self.on_loop else self._events.follow
        record = self.compose_record()
        set_current, ok, failed, finished = CURRENT.set, Outcome.OK, Outcome.ERROR, FINISHED
        inbox = self._inbox
        running: list[Call | None] = [None]
        self.running[id(running)] = running

        def invoke(call: Call) -> Any:
            set_current(call)
            return table[call.method.index](*call.args, **call.kwargs)

        def execute(call: Any) -> bool:  # noqa: C901, PLR0912, PLR0915 - as the comment says
            # One function, with Call.claim, claim_outcome and publish written out: a frame would cost every call.
            if call is None:
                self.running.pop(id(running), None)
                return False
            while call is not None:
                start = monotonic()
                if start >= call.expires:
                    call = execute_other(call)
                    continue
                try:
                    del call._unstarted
                except AttributeError:  # given up while it was queued
                    call = follow(call)
                    continue
                running[0] = call
                context = call.context
                # The context is about to refer to the call: keeping both ways would leave every call to the collector.
                call.context = None
                result: Any = None
                error: BaseException | None = None
                try:
                    result = context.run(invoke, call)
                except BaseException as raised:  # noqa: BLE001 - whatever it is belongs to the caller
                    error = raised if isinstance(raised, Exception) else self.as_remote_error(raised, call)
                end = self.latest = monotonic()
                running[0] = None
                late = end >= call.deadline
                try:
                    del call._unsettled
                except AttributeError:  # given up while it ran
                    call.owner.abandoned_ended(call)
                    call = follow(call)
                    continue
                if late:  # nobody had given it up yet, but the result goes nowhere all the same
                    result, error = None, call.timeout_error(ended=True)
                try:
                    record(
                        call.method.index,
                        ok if error is None else Outcome.TIMEOUT if late else failed,
                        start - call.since,
                        end - start,
                    )
                except BaseException as raised:  # noqa: BLE001 - a plugin's fault must reach neither worker nor caller
                    self.recorder_failed(raised)
                # The slot first, the caller second: a caller that calls again at once must find the slot free.
                following = follow(call)
                call._result = result
                call._exception = error
                call._over = finished
                latch = call._latch
                if latch is not None:
                    if call._shared is None:
                        try:  # noqa: SIM105 - nothing is done that its caller would have to wait for
                            latch.release()
                        except RuntimeError:  # released before, by a grant
                            pass
                    else:
                        if following is not None:
                            # Its callbacks run in this thread and may take their time: another worker goes on.
                            inbox(following)
                            following = None
                        call.release()
                call = following
            return True

        def execute_other(work: Any) -> Work | None:
            """
            Work that is no call to be run: a step of the replica's life, a batch, or a call whose time is over.
            """
            if isinstance(work, Call):
                work.expire()
                return follow(work)
            if isinstance(work, Step):
                work.run()
                return None
            return execute_batch(work)

        def execute_batch(batch: Batch) -> Work | None:
            batch.gather()
            start = monotonic()
            calls, rows = self.start_batch(batch, start, record)
            outcomes: list[Any] = []
            if calls:
                running.extend(calls)
                try:
                    outcomes = batch_context(calls).run(invoke_batch, calls, rows)
                except BaseException as raised:  # noqa: BLE001 - as in `execute`
                    outcomes = self.all_failed(calls, raised)
                del running[1:]
            return self.end_batch(batch, calls, outcomes, start, record, follow)

        def invoke_batch(calls: list[Call], rows: list[tuple[Any, ...]]) -> list[Any]:
            set_current(longest(calls))
            bound, _ = self.batches[calls[0].method.index]
            return self.batch_results(calls, bound(*map(list, zip(*rows, strict=True))))

        if not self.on_loop:
            return execute

        def execute_handed(work: Any) -> bool:
            self.handed.discard(work)
            return execute(work)

        return execute_handed

    def _free(self, ended: Work) -> None:
        self._events.freed(ended)

    # -- batches -----------------------------------------------------------------------------------------------------

    def start_batch(self, batch: Batch, now: float, record: _Record) -> tuple[list[Call], list[tuple[Any, ...]]]:
        """Claim the calls of *batch* that are still wanted; gives them and their arguments."""
        _, bind = self.batches[batch.method.index]
        calls: list[Call] = []
        rows: list[tuple[Any, ...]] = []
        for call in batch.calls:
            if now >= call.expires:
                call.expire()
            elif call.claim():
                try:
                    rows.append(bind(call.args, call.kwargs))
                except TypeError as error:  # its own fault, and not the others'
                    error.args = (f"{call.method.name}() {error}",)
                    if self.settles(call, error, now, now, record):
                        call.publish(None, error)
                    else:
                        call.owner.abandoned_ended(call)
                else:
                    calls.append(call)
        batch.owner.batch_started(batch, len(calls))
        return calls, rows

    def batch_results(self, calls: Sequence[Call], results: Any) -> list[Any]:
        """Check what the batch method gave: one result for each call."""
        plan = calls[0].method.batch
        if not isinstance(results, (list, tuple)) or len(results) != len(calls):
            given = f"{len(results)} results" if isinstance(results, (list, tuple)) else f"a {type(results).__name__}"
            msg = (
                f"{self.spec.service}.{plan.name if plan else ''} must return a list with one result for each call, "
                f"in their order: it got {len(calls)} and returned {given}"
            )
            raise TypeError(msg)
        return list(results)

    def all_failed(self, calls: Sequence[Call], raised: BaseException) -> list[Any]:
        """The outcomes of calls whose batch method raised."""
        error = raised if isinstance(raised, Exception) else self.as_remote_error(raised, calls[0])
        return [error] * len(calls)

    def end_batch(  # noqa: PLR0913, PLR0917 - for the two envelopes only
        self,
        batch: Batch,
        calls: Sequence[Call],
        outcomes: Sequence[Any],
        start: float,
        record: _Record,
        follow: Callable[[Work], Work | None],
    ) -> Work | None:
        """Settle the calls of a batch that has run; gives the work that gets its slot."""
        end = self.clock.monotonic()
        over = []
        for call, outcome in zip(calls, outcomes, strict=True):
            error = outcome if isinstance(outcome, BaseException) else None
            if end >= call.deadline:
                error = call.timeout_error(ended=True)
            if self.settles(call, error, start, end, record):
                over.append((call, None if error is not None else outcome, error))
            else:
                call.owner.abandoned_ended(call)
        following = follow(batch)
        if following is not None and any(call._shared is not None for call in calls):
            self._inbox(following)  # callbacks run in this thread and may take their time: another worker goes on
            following = None
        for call, result, error in over:
            call.publish(result, error)
        return following

    def settles(self, call: Call, error: BaseException | None, start: float, end: float, record: _Record) -> bool:
        """Decide the outcome of a call that has run, and count it; False if it was given up meanwhile."""
        self.latest = end
        if not call.claim_outcome():
            return False
        how = Outcome.OK if error is None else Outcome.TIMEOUT if end >= call.deadline else Outcome.ERROR
        try:
            record(call.method.index, how, start - call.since, end - start)
        except BaseException as raised:  # noqa: BLE001 - as in `execute`
            self.recorder_failed(raised)
        return True

    # -- recorders and errors ----------------------------------------------------------------------------------------

    def compose_record(self) -> _Record:
        """One function that tells all recorders, for one worker."""
        recorders = self._recorders
        if not recorders:
            return lambda _method, _outcome, _wait_s, _run_s: None
        records = [recorder.writer() for recorder in recorders]
        if len(records) == 1:
            return records[0]

        def record_all(method: int, outcome: int, wait_s: float, run_s: float) -> None:
            failure: BaseException | None = None
            for record in records:
                try:
                    record(method, outcome, wait_s, run_s)
                except BaseException as error:  # noqa: BLE001 - the others count on
                    failure = error
            if failure is not None:
                raise failure

        return record_all

    def recorder_failed(self, error: BaseException) -> None:
        """Say once that a monitor's recorder raises; its counts are wrong from here on, and nothing else is."""
        if not self._recorder_told:
            self._recorder_told = True
            logging.getLogger("sage_plugins").error(
                "a recorder of %s raised; it is not told again", self.spec.id, exc_info=error
            )

    def as_remote_error(self, raised: BaseException, call: Call) -> BaseException:
        """What the caller gets for SystemExit and its kind, which would end the caller's thread or process."""
        import traceback

        text = text_of(raised)
        return RemoteError(
            f"{self.spec.service}.{call.method.name} raised {text}; it was kept from ending the replica. Raise an "
            "ordinary exception instead",
            type_name=type(raised).__qualname__,
            original_message=text.partition(": ")[2],
            traceback_text="".join(traceback.format_exception(raised)),
            service=self.spec.service,
            method=call.method.name,
            replica=self.spec.id,
        )


def longest(calls: Sequence[Call]) -> Call:
    """The call for which a batch method runs: the one with the most time left, so that it cuts no other short."""
    return max(calls, key=lambda call: call.deadline)


def batch_context(calls: Sequence[Call]) -> Any:
    """The context in which the batch method runs; the others are dropped, as `execute` does with a call's own."""
    context = longest(calls).context
    for call in calls:
        call.context = None
    return context
