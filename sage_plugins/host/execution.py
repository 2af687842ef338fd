"""
The methods of one instance, and what its workers share: running calls, outcomes, recorders.

`thread_worker` and `loop_worker` compose what runs a call, `batches` what runs several together.
"""

from __future__ import annotations

import logging
import threading
from math import inf
from operator import attrgetter, truth
from types import CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sage_plugins.call.call import Call
from sage_plugins.call.current import CURRENT
from sage_plugins.config.nested_keys import retry_policy
from sage_plugins.errors import RemoteError, text_of
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

#: The work that a worker is at. With built-in functions alone, which other threads cannot interrupt.
WORK: Final = attrgetter("at")

#: `record(method, outcome, wait_s, run_s)`, for one worker.
Record: TypeAlias = "Callable[[int, int, float, float], None]"

#: `takes_back(call, error, context)`; see `Execution.takes_back`.
TakesBack: TypeAlias = "Callable[..., Callable[[], None] | None]"


class Execution:
    """
    The methods of one instance, as its workers run them.

    Attributes:
        spec: The replica's.
        clock: For deadlines and durations.
        on_loop: Whether coroutines run on an event loop of the strategy's, rather than in the workers' own threads.
        event_loop: That loop, once it runs.
        table: Bound methods by index, once the instance exists.
        batches: Runs calls that are answered together, once the instance exists; None if no method has a batch.
        tasks: The running calls that are coroutines.
        batch_tasks: The tasks in which batches run on the event loop.
        steps: The steps of the replica's life that run on the event loop.
        handed: Calls and batches that the loop has left to a thread and none has taken yet.
        events: Told of slots that are free.
        workers: Those of the worker threads, as keys.
        batched: The calls of batches that run on the event loop.
        own: What `metrics` gives, once somebody has asked.
        errors: The errors that the methods raised.
        takes_back: Asks the owner of a call whose method raised to take it back, as `CallOwner.failed`; None if the
            service does not try calls again whose methods raise.
    """

    def __init__(
        self,
        spec: ReplicaSpec,
        clock: Clock,
        events: ReplicaEvents,
        recorders: Mapping[str, Recorder],
        loop: WorkerLoop,
    ) -> None:
        """
        Prepare; nothing can run before `bind`.

        Args:
            spec: The replica's.
            clock: For deadlines and durations.
            events: Told of slots that are free.
            recorders: Count the calls, by the ID of their monitor.
            loop: Runs coroutines in the workers' threads.
        """
        self.spec = spec
        self.clock = clock
        self.on_loop = False
        self.event_loop: asyncio.AbstractEventLoop | None = None
        self.table: list[Callable[..., Any]] = []
        self.batches: Batches | None = None
        self.tasks: set[Call] = set()
        self.batch_tasks: set[asyncio.Task[None]] = set()  # the loop keeps no strong reference to a task
        self.steps: set[asyncio.Task[None]] = set()
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
        self._making = threading.Lock()  # held while that is made
        self._latest = -inf  # as `latest`, of calls on an event loop and of workers that have ended

    def metrics(self) -> OwnMetrics:
        """What the class measures of itself, and what is measured here; always the same object."""
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
            bound = lambda *args, **kwargs: produce_async(generator(*args, **kwargs))  # noqa: E731 - it is one of four
        elif kind is MethodKind.SYNC:
            return bound
        if self.on_loop:
            return bound
        run = self._loop.run
        return lambda *args, **kwargs: run(self._stoppable(bound(*args, **kwargs)))

    def finish(self, unrun: Any, method: str) -> Any:
        """
        What comes of something that *method* gave and that has yet to run; for a worker's thread.

        A coroutine is run here, on the replica's event loop if it has one.

        Raises:
            TypeError: It is a generator, whose items nobody would make here.
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
        """The error that *method* returned a generator, which is closed."""
        if isinstance(generator, GeneratorType):
            generator.close()
        return TypeError(
            f"{self.spec.service}.{method} returned a generator, whose items would be made by the caller, not in the "
            "replica. Return a list. Or make the method itself a generator function, with `yield from` in it and no "
            "decorator that hides it, and read it with stream()"
        )

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
        at = [worker.at for worker in list(self.workers)]
        works = [work for work in at if work is not None and not isinstance(work, Step)]
        on_loop = (*self.tasks.copy(), *self.batched.copy())
        return list(dict.fromkeys([*self.calls_of([*works, *self.handed.copy()]), *on_loop]))

    def forget(self, worker: Worker) -> None:
        """*worker* has ended."""
        self.workers.pop(worker, None)
        self._latest = max(self._latest, worker.ended)

    def latest(self) -> float:
        """`monotonic()` when a call ended last; may lag by a call."""
        return max([self._latest, *(worker.ended for worker in list(self.workers))])

    def at_work(self) -> int:
        """Pieces of work that workers do; not those that wait for one."""
        return sum(map(truth, map(WORK, list(self.workers)))) + len(self.tasks) + len(self.batch_tasks)

    @staticmethod
    def calls_of(works: Iterable[Work]) -> list[Call]:
        """The calls in pieces of work."""
        return [call for work in works for call in ([work] if isinstance(work, Call) else work.calls)]

    def free(self, ended: Work) -> None:
        """`events.follow` for threads beside an event loop: what comes next goes to the loop."""
        self.events.freed(ended)

    # -- outcomes ----------------------------------------------------------------------------------------------------

    def settles(self, call: Call, error: BaseException | None, start: float, end: float, record: Record) -> bool:
        """Decide the outcome of a call that has run, and count it; False if it was given up meanwhile."""
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
        """One function that tells all recorders, for one worker."""
        if not self._recorders:
            return lambda _method, _outcome, _wait_s, _run_s: None
        records = [(recorder.writer(), id) for id, recorder in self._recorders.items()]
        if len(records) == 1:
            return records[0][0]

        def record_all(method: int, outcome: int, wait_s: float, run_s: float) -> None:
            for record, id in records:
                try:
                    record(method, outcome, wait_s, run_s)
                except BaseException as error:  # noqa: BLE001 - the others count on
                    self.recorder_failed(error, id)

        return record_all

    def recorder_failed(self, error: BaseException, id: str | None = None) -> None:
        """
        Log the first fault of each recorder; its counts are wrong from here on, and nothing else is.

        Args:
            error: What it raised.
            id: Of its monitor; None for the only one.
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
                    call.context = context  # the caller's variables, for the next attempt
                self.errors.note(call, error, context)
            return try_again

        return takes_back

    def close_recorders(self) -> None:
        """No call is counted any more."""
        for id, recorder in self._recorders.items():
            try:
                recorder.close()
            except Exception as error:  # noqa: BLE001 - a plugin's fault must not keep the replica from stopping
                self.recorder_failed(error, id)

    def as_remote_error(self, raised: BaseException, call: Call) -> BaseException:
        """
        What the caller gets for SystemExit and its kind, which would end the caller's thread or process.

        What a signal handler raised while the method ran in its caller's thread is that thread's own: it stays itself.
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
