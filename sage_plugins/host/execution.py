"""
The methods of one instance, and the state that its workers share: running calls, outcomes, recorders.

`thread_worker` and `loop_worker` run single calls, `batches` runs batches.
"""

from __future__ import annotations

import logging
import threading
from math import inf
from operator import attrgetter, truth
from types import CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Final, Never, TypeAlias

from sage_plugins.call.call import Call
from sage_plugins.call.current import CURRENT
from sage_plugins.config.nested_keys import retry_policy
from sage_plugins.errors import RemoteError, ServiceStoppedError, text_of
from sage_plugins.host.lifecycle import Step
from sage_plugins.host.recording import surrounded
from sage_plugins.host.thread_loop import UNRUN
from sage_plugins.service.method_errors import MethodErrors
from sage_plugins.values import COROUTINES, MethodKind, Outcome

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterable, Mapping
    from contextvars import Context

    from sage_plugins.clock import Clock
    from sage_plugins.host.batches import Batches
    from sage_plugins.host.thread_loop import WorkerLoop
    from sage_plugins.host.thread_worker import Worker
    from sage_plugins.interfaces import Recorder, ReplicaEvents, Work
    from sage_plugins.service.own_metrics import OwnMetrics
    from sage_plugins.values import ReplicaSpec

__all__ = ["WORK", "Execution", "Record"]

#: Returns the work that a worker does. A built-in function, so no other thread runs in the middle of it.
WORK: Final = attrgetter("at")
_STATE: Final = attrgetter("at", "ended")

#: `record(method, outcome, wait_s, run_s)`, for one worker.
Record: TypeAlias = "Callable[[int, int, float, float], None]"

#: `takes_back(call, error, context)`; see `Execution.takes_back`.
TakesBack: TypeAlias = "Callable[..., Callable[[], None] | None]"


class Execution:
    """
    One instance's methods, as its workers run them.

    Attributes:
        spec: The replica's specification.
        clock: For deadlines and durations.
        on_loop: Whether coroutines run on the strategy's event loop, not in the workers' own threads.
        event_loop: The strategy's event loop, once it runs.
        table: Bound methods by index, once the instance exists.
        batches: Runs batches, once the instance exists; None if no method has a batch.
        tasks: The running calls that are coroutines.
        batch_tasks: The tasks in which batches run on the event loop.
        steps: The tasks of the life-cycle steps that run on the event loop.
        stopping: The step that runs the stop hooks, once the replica is told to stop.
        handed: Calls and batches that the event loop has left to a thread, until a thread takes them.
        events: Receives reports of free slots.
        workers: The workers, as keys.
        batched: The calls of batches that run on the event loop.
        own: The object that `metrics` returns, once it was asked for.
        errors: The errors that the methods raised.
        takes_back: Asks the owner of a call whose method raised to take it back for a retry, as `CallOwner.failed`;
            None if the service does not retry after exceptions.
    """

    def __init__(
        self,
        spec: ReplicaSpec,
        clock: Clock,
        events: ReplicaEvents,
        recorders: Mapping[str, Recorder],
        loop: WorkerLoop,
    ) -> None:
        """Prepare; nothing can run before `bind`."""
        self.spec = spec
        self.clock = clock
        self.on_loop = False
        self.event_loop: asyncio.AbstractEventLoop | None = None
        self.table: list[Callable[..., Any]] = []
        self.batches: Batches | None = None
        self.tasks: set[Call] = set()
        self.batch_tasks: set[asyncio.Task[None]] = set()  # the loop keeps no strong reference to a task
        self.steps: set[asyncio.Task[None]] = set()
        self.stopping: Step | None = None
        self.events = events
        self._recorders = recorders
        self._loop = loop
        self.handed: set[Work] = set()
        self.workers: dict[Worker, None] = {}
        self.batched: set[Call] = set()
        self._faulty_recorders: set[str] = set()
        self.own: OwnMetrics | None = None
        self.errors = MethodErrors()
        self.takes_back = self._compose_takes_back()
        self._making = threading.Lock()  # guards the creation of `own`
        self._latest = -inf  # as `latest`, for calls on an event loop and for workers that have ended

    def metrics(self) -> OwnMetrics:
        """Return the metrics that the service class and the host measure; always the same object."""
        with self._making:
            if self.own is None:
                from sage_plugins.service.own_metrics import OwnMetrics  # few services have any

                self.own = OwnMetrics()
            return self.own

    # -- the instance's methods --------------------------------------------------------------------------------------

    def bind(self, instance: Any) -> None:
        """Run calls on *instance* from now on."""
        for method in self.spec.methods:
            self.table.append(self._bound(instance, method.name, method.kind))
            batch = method.batch
            if batch is not None:
                if self.batches is None:
                    from sage_plugins.host.batches import Batches  # few services need it, as the streams below

                    self.batches = Batches(self)
                bound = self._bound(instance, batch.name, batch.kind)
                self.batches.bind(method.index, bound, getattr(instance, method.name))

    def unbind(self) -> None:
        """Let go of the instance, which may be large: others keep this replica longer. Calls that still come fail."""
        self.table[:] = [self._gone] * len(self.table)
        if self.batches is not None:
            self.batches.unbind(self._gone)

    def _gone(self, *_args: Any, **_kwargs: Any) -> Never:
        spec = self.spec
        msg = f"replica {spec.id} has stopped"
        raise ServiceStoppedError(msg, service=spec.service, replica=spec.id)

    def _bound(self, instance: Any, name: str, kind: MethodKind) -> Callable[..., Any]:
        run = self._runnable(instance, name, kind)
        for recorder in self._recorders.values():
            around = getattr(recorder, "around", None)
            if around is not None:
                run = surrounded(run, around, self, name, awaits=self.on_loop and kind in COROUTINES)
        return run

    def _runnable(self, instance: Any, name: str, kind: MethodKind) -> Callable[..., Any]:
        bound: Callable[..., Any] = getattr(instance, name)
        if kind is MethodKind.GENERATOR:
            from sage_plugins.call.stream import produce

            return lambda *args, **kwargs: produce(bound(*args, **kwargs))
        if kind is MethodKind.ASYNC_GENERATOR:
            from sage_plugins.call.stream import produce_async

            generator = bound
            bound = lambda *args, **kwargs: produce_async(generator(*args, **kwargs))  # noqa: E731 - sets `bound`
        elif kind is MethodKind.SYNC:
            return bound
        if self.on_loop:
            return bound
        run = self._loop.run
        return lambda *args, **kwargs: run(self._stoppable(bound(*args, **kwargs)))

    def finish(self, unrun: Any, method: str) -> Any:
        """
        Run a coroutine that *method* returned, and return its result; for a worker's thread.

        It runs on the replica's event loop if there is one.

        Raises:
            TypeError: The method returned a generator, whose items would not be made in the replica.
            BaseException: What the coroutine raises.
        """
        if not isinstance(unrun, CoroutineType):
            raise self.refuse_generator(unrun, method)
        if self.event_loop is None:
            result = self._loop.run(self._stoppable(unrun))
        else:
            import asyncio

            result = asyncio.run_coroutine_threadsafe(self._stoppable(unrun), self.event_loop).result()
        return self.finish(result, method) if type(result) in UNRUN else result

    async def afinish(self, unrun: Any, method: str) -> Any:
        """`finish` for a task of the replica's event loop."""
        if not isinstance(unrun, CoroutineType):
            raise self.refuse_generator(unrun, method)
        result = await unrun
        return await self.afinish(result, method) if type(result) in UNRUN else result

    def refuse_generator(self, generator: Any, method: str) -> TypeError:
        """Close the *generator* that *method* returned, and return the error for that."""
        if isinstance(generator, GeneratorType):
            generator.close()
        return TypeError(
            f"{self.spec.service}.{method} returned a generator, whose items would be made by the caller, not in the "
            "replica. Return a list. Or make the method itself a generator function, with `yield from` in it and no "
            "decorator that hides it, and read it with stream()"
        )

    async def _stoppable(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run *coroutine* on a worker's own loop, so that `cancel` and the deadline can end it."""
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
            if call.settled():  # it was given up before `cancel` could find its task
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
        """Cancel the coroutine of *call*, if it runs as one."""
        task = call.task
        if task is not None:
            try:
                task.get_loop().call_soon_threadsafe(task.cancel)
            except RuntimeError:  # the loop was closed, and its task has ended
                return

    def calls_running(self) -> list[Call]:
        """Return the calls that were started, or left to a thread, and have not ended."""
        at = [worker.at for worker in list(self.workers)]
        works = [work for work in at if work is not None and not isinstance(work, Step)]
        on_loop = (*self.tasks.copy(), *self.batched.copy())
        return list(dict.fromkeys([*self.calls_of([*works, *self.handed.copy()]), *on_loop]))

    def end_worker(self, worker: Worker) -> None:
        """
        Forget *worker*, which ends.

        If it was told to end before a worker began the stop hooks, it runs them: `Inbox.take_work` may have taken their
        step out of the inbox at this moment.
        """
        if self.stopping is not None and not self.on_loop:
            self.stopping.run()
        self.workers.pop(worker, None)
        self._latest = max(self._latest, worker.ended)

    def latest(self) -> float:
        """Return `monotonic()` at the end of the last call; may lag by a call."""
        return max([self._latest, *(worker.ended for worker in list(self.workers))])

    def states(self) -> Iterable[tuple[Worker, tuple[Work | None, float]]]:
        """Return an iterator over all workers, each with its work and when that last ended; it runs no Python code."""
        workers = list(self.workers)
        return zip(workers, map(_STATE, workers), strict=True)

    def at_work(self) -> int:
        """Return the number of work items that run; work that waits for a worker does not count."""
        return sum(map(truth, map(WORK, list(self.workers)))) + len(self.tasks) + len(self.batch_tasks)

    @staticmethod
    def calls_of(works: Iterable[Work]) -> list[Call]:
        """Return the calls of work items."""
        return [call for work in works for call in ([work] if isinstance(work, Call) else work.calls)]

    def free(self, ended: Work) -> None:
        """`events.follow` for threads beside an event loop: the next call goes to the loop."""
        self.events.freed(ended)

    # -- outcomes ----------------------------------------------------------------------------------------------------

    def settles(self, call: Call, error: BaseException | None, start: float, end: float, record: Record) -> bool:
        """Decide the outcome of a call that has run, and record it; False if the call was given up meanwhile."""
        self._latest = call.ended = end
        if not call.claim_outcome():
            return False
        how = Outcome.OK if error is None else Outcome.TIMEOUT if end >= call.deadline else Outcome.ERROR
        try:
            record(call.method.index, how, start - call.since, end - start)
        except BaseException as raised:  # noqa: BLE001 - as in `execute`
            self.recorder_failed(raised)
        if error is not None and how == Outcome.ERROR:
            self.errors.note(call, error)
        return True

    # -- recorders and errors ----------------------------------------------------------------------------------------

    def compose_record(self) -> Record:
        """Return one function that calls all recorders, for one worker."""
        if not self._recorders:
            return lambda _method, _outcome, _wait_s, _run_s: None
        records = [(recorder.writer(), id) for id, recorder in self._recorders.items()]
        if len(records) == 1:
            return records[0][0]

        def record_all(method: int, outcome: int, wait_s: float, run_s: float) -> None:
            for record, id in records:
                try:
                    record(method, outcome, wait_s, run_s)
                except BaseException as error:  # noqa: BLE001 - the other recorders must still count the call
                    self.recorder_failed(error, id)

        return record_all

    def recorder_failed(self, error: BaseException, id: str | None = None) -> None:
        """
        Log the first fault of each recorder. Its counts are wrong from then on; nothing else is affected.

        Args:
            error: The exception that it raised.
            id: ID of its monitor; None for the only recorder.
        """
        whose = next(iter(self._recorders)) if id is None else id
        if whose not in self._faulty_recorders:
            self._faulty_recorders.add(whose)
            logging.getLogger("sage_plugins").error(
                "the recorder of monitor '%s' raised in %s; its further faults are not reported",
                whose,
                self.spec.id,
                exc_info=error,
            )

    def _compose_takes_back(self) -> TakesBack | None:
        policy = retry_policy(self.spec.config.retry, failover=False)
        if policy is None or not policy.on:
            return None

        def takes_back(call: Call, error: BaseException, context: Context | None = None) -> Callable[[], None] | None:
            if not policy.matches(error):
                return None
            call.ended = self.clock.monotonic()
            try_again = call.owner.failed(call, error)
            if try_again is not None:
                if context is not None:
                    call.context = context  # the next attempt needs the caller's variables
                self.errors.note(call, error, context)
            return try_again

        return takes_back

    def close_recorders(self) -> None:
        """Close all recorders: no call is recorded any more."""
        for id, recorder in self._recorders.items():
            try:
                recorder.close()
            except Exception as error:  # noqa: BLE001 - a plugin's fault must not keep the replica from stopping
                self.recorder_failed(error, id)

    def as_remote_error(self, raised: BaseException, call: Call) -> BaseException:
        """
        Return the error for a caller whose method raised SystemExit or the like, which would end the caller's thread.

        If a signal handler raised it while the method ran in its caller's thread, return it unchanged: it is meant for
        that thread.
        """
        import traceback

        from sage_plugins.call.endings import raised_by_signal

        if raised_by_signal(raised):
            return raised
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
