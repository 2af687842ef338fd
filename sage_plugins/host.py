"""
The replica's process: the instance, the envelope around each call, the recorders and the life-cycle hooks.

The same for every target. The strategy's workers fetch work from the host's inbox and give it to `execute`, which is
composed once per worker: deadline, claim, context, method, record, free the slot, release the caller, and on to the
call that waits for the slot.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from contextvars import copy_context
from math import inf
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.call import CURRENT, FINISHED, Call
from sage_plugins.errors import RemoteError, ServiceStoppedError, text_of
from sage_plugins.interfaces import ControlOp
from sage_plugins.service import ServiceContext, run_hook
from sage_plugins.values import MethodKind, Outcome, ReplicaInfo, ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import Recorder, ReplicaEvents, Runner, Work
    from sage_plugins.values import Limits, MethodPlan, ReplicaSpec

__all__ = ["Host"]


#: Seconds in which a worker that is not stuck comes to the stop hooks, and in which it ends after them.
_STUCK_GRACE_S: Final = 1.0


class _Job:
    """A step of the replica's life, done by a worker as if it were a call, so that it runs where calls run."""

    __slots__ = ("begun", "done", "error", "run")
    expires = -inf  # so that `execute` takes it aside without a question of its own

    def __init__(self, run: Callable[[], None]) -> None:
        self.run = run
        self.begun = threading.Event()
        self.done = threading.Event()
        self.error: BaseException | None = None


class _Loop(threading.local):
    """The event loop of a worker thread, made for its first coroutine and closed when the worker ends."""

    runner: Any = None
    kept: bool = False  # whether this thread is a worker's, which closes its loop

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        import asyncio

        if not self.kept:  # a caller's own thread, which may be running a loop
            outcome: Future[Any] = Future()
            context = copy_context()
            threading.Thread(target=context.run, args=(_run_apart, coroutine, outcome), daemon=True).start()
            return outcome.result()
        if self.runner is None:
            self.runner = asyncio.Runner()
        return self.runner.run(coroutine, context=copy_context())

    def close(self) -> None:
        if self.runner is not None:
            self.runner.close()


def _run_apart(coroutine: Coroutine[Any, Any, Any], outcome: Future[Any]) -> None:
    import asyncio

    try:
        outcome.set_result(asyncio.run(coroutine))
    except BaseException as error:  # noqa: BLE001 - it is the caller's
        outcome.set_exception(error)


class _Seat:
    """`interfaces.Seat` for one host."""

    __slots__ = ("_loop", "end_worker", "get", "limits", "name", "spawn", "waiting", "worker")

    def __init__(
        self,
        name: str,
        limits: Limits,
        inbox: SimpleQueue[Any],
        worker: Callable[[], Callable[[Work | None], bool]],
        loop: _Loop,
    ) -> None:
        self._loop = loop
        self.name = name
        self.limits = limits
        self.get: Callable[[], Work | None] = inbox.get
        self.waiting: Callable[[], int] = inbox.qsize
        self.worker = worker
        self.end_worker: Callable[[], None] = lambda: inbox.put(None)
        self.spawn = self._spawn

    def _spawn(self, run: Callable[[], None], suffix: str) -> threading.Thread:
        # A daemon, because no stuck method may keep the interpreter from exiting.
        thread = threading.Thread(target=self._work, args=(run,), name=f"{self.name}-{suffix}", daemon=True)
        thread.start()
        return thread

    def _work(self, run: Callable[[], None]) -> None:
        self._loop.kept = True
        try:
            run()
        finally:
            self._loop.close()


class Host:
    """
    One replica, in the process where it runs.

    Attributes:
        put: Take a call; never blocks.
        run_here: Run a call in the calling thread, for strategies without workers; else None.
        slots: Calls at once, at most.
    """

    put: Callable[[Call], None]
    run_here: Callable[[Call], None] | None
    slots: int

    def __init__(self, spec: ReplicaSpec, events: ReplicaEvents, clock: Clock, *, node: str | None = None) -> None:
        """
        Prepare the replica; nothing runs before `start`.

        Args:
            spec: What to run.
            events: Whom to tell.
            clock: For deadlines and durations.
            node: Where this is, for the recorders.
        """
        self._spec = spec
        self._events = events
        self._clock = clock
        self._recorders: dict[str, Recorder] = {}
        who = ReplicaInfo(spec.service, spec.id, node)
        names = tuple(method.name for method in spec.methods)
        self._monitors = [choice.create() for choice in spec.monitors]
        for choice, monitor in zip(spec.monitors, self._monitors, strict=True):
            recorder = monitor.recorder(who, names)
            if recorder is not None:
                self._recorders[choice.id] = recorder
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        self._table: list[Callable[..., Any]] = []  # bound methods by index, once the instance exists
        self._instance: Any = None
        self._running: list[list[Call | None]] = []  # a cell for each worker: the call that it runs
        self._recorder_told = False
        self._life = threading.Lock()
        self._stopping: _Job | None = None  # guarded by _life, as the next
        self._building = False
        self._runner: Runner | None = None
        self._loop = _Loop()
        self._seat = _Seat(spec.id, spec.limits, self._inbox, self._compose, self._loop)

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers and let the first one build the instance; returns at once."""
        runner = self._spec.strategy.create().start(self._seat)
        self._runner = runner
        self.slots = runner.slots
        self.run_here = runner.run_here
        self.put = self._inbox.put
        self._events.changed(ReplicaState.STARTING)
        self._submit(_Job(self._build), "start")

    def _submit(self, job: _Job, suffix: str) -> None:
        """Have a worker do *job*; a strategy without workers gets a thread for it, so that waiting for it can end."""
        if self._runner is None or self._runner.run_here is None:
            self._inbox.put(job)
            return
        try:
            self._seat.spawn(lambda: self._do(job), suffix)
        except RuntimeError:  # the interpreter is shutting down and starts no more threads
            self._do(job)

    def _do(self, job: _Job) -> None:
        job.begun.set()
        try:
            job.run()
        except BaseException as error:  # noqa: BLE001 - a constructor's or hook's; the worker must live on
            job.error = error
        finally:
            job.done.set()

    def _build(self) -> None:
        spec = self._spec
        context = ServiceContext(spec.service, spec.index, self._events.service)
        run = self._loop.run
        with self._life:
            if self._stopping is not None:
                return
            self._building = True
        failure: BaseException | None = None
        try:
            instance = self._instance = spec.factory.create_service(context)
            self._table.extend(self._bind(instance, method) for method in spec.methods)
            run_hook(instance, "setup", run)
            run_hook(instance, "start_running", run) or run_hook(instance, "start", run)
            run_hook(instance, "warmup", run)
        except BaseException as error:  # noqa: BLE001 - also sys.exit() in a constructor
            failure = error
        with self._life:
            self._building = False
            stopping = self._stopping is not None
        if stopping:  # nobody waited for this any more, and the stop hooks were left to this thread
            self._end_instance()
        elif failure is None:
            self._events.changed(ReplicaState.READY)
        else:
            self._events.changed(ReplicaState.FAILED, failure)

    def _bind(self, instance: Any, method: MethodPlan) -> Callable[..., Any]:
        bound: Callable[..., Any] = getattr(instance, method.name)
        if method.kind is not MethodKind.ASYNC:
            return bound
        run = self._loop.run
        return lambda *args, **kwargs: run(bound(*args, **kwargs))

    def _tear_down(self) -> None:
        with self._life:
            if self._building:  # the constructor or a start hook still runs on another thread, which does the rest
                return
        self._end_instance()

    def _end_instance(self) -> None:
        with self._life:
            instance, self._instance = self._instance, None
        if instance is None:
            return
        run = self._loop.run
        try:
            run_hook(instance, "stop", run)
        finally:
            run_hook(instance, "cleanup", run) or run_hook(instance, "close", run)

    def stop(self, grace: float) -> int:
        """
        Run the stop hooks where calls run, then end the workers; waits at most *grace* seconds in all.

        Waits no longer than a second for workers that are stuck: they end when their method does.

        Idempotent, from any thread. Calls that still run after *grace* end with ServiceStoppedError; their methods go
        on and their number is returned.
        """
        runner = self._runner
        if runner is None:
            return 0
        until = self._clock.monotonic() + grace
        with self._life:
            job = self._stopping
            if job is None:
                job = self._stopping = _Job(self._tear_down)
                self._submit(job, "stop")
        # A worker that does not come to the hooks soon is stuck in a method or a constructor.
        if job.begun.wait(min(grace, _STUCK_GRACE_S)):
            job.done.wait(max(0.0, until - self._clock.monotonic()))
        if job.error is not None:
            logging.getLogger("sage_plugins").error("a stop hook of %s raised", self._spec.id, exc_info=job.error)
            job.error = None
        for call in self._calls_running():
            call.give_up(self._stopped_error(call), Outcome.STOPPED)
        return runner.stop(min(max(0.0, until - self._clock.monotonic()), _STUCK_GRACE_S))

    def _calls_running(self) -> list[Call]:
        return [call for cell in tuple(self._running) for call in tuple(cell) if call is not None]

    def _stopped_error(self, call: Call) -> ServiceStoppedError:
        spec = self._spec
        msg = (
            f"{spec.service}.{call.method.name} was still running on {spec.id} when the service stopped; it may have "
            "had its effect. Raise `drain_timeout` if calls take that long"
        )
        return ServiceStoppedError(msg, service=spec.service, method=call.method.name, replica=spec.id)

    def control(self, op: ControlOp, arg: Any = None) -> Any:  # noqa: ARG002 - for operations that take one
        """Answer a question beside the calls, in the asking thread."""
        if op is ControlOp.STATS:
            return self._stats()
        if op is ControlOp.CHECK:
            return self._check()
        msg = f"unknown control operation {op!r}"
        raise ValueError(msg)

    def _stats(self) -> Mapping[str, Any]:
        snapshots = {}
        for id, recorder in self._recorders.items():
            try:
                snapshots[id] = recorder.snapshot()
            except Exception as error:  # noqa: BLE001 - a plugin's fault must not take the whole status away
                self._recorder_failed(error)
        return {"runner": None if self._runner is None else self._runner.stats(), "recorders": snapshots}

    def _check(self) -> bool:
        check = getattr(self._instance, "check_health", None)
        if check is not None and check() is False:
            msg = f"check_health() of {self._spec.id} returned False"
            raise RuntimeError(msg)
        return True

    # -- the envelope around a call ----------------------------------------------------------------------------------

    def _compose(self) -> Callable[[Any], bool]:  # noqa: C901, PLR0915 - see `execute`
        """A worker's `execute`, with all that has one answer decided."""
        monotonic, follow, table = self._clock.monotonic, self._events.follow, self._table
        record = _compose_record(list(self._recorders.values()))
        set_current, ok, failed, finished = CURRENT.set, Outcome.OK, Outcome.ERROR, FINISHED
        inbox = self._inbox
        running: list[Call | None] = [None]
        self._running.append(running)

        def invoke(call: Call) -> Any:
            set_current(call)
            return table[call.method.index](*call.args, **call.kwargs)

        def execute(call: Any) -> bool:  # noqa: C901, PLR0912, PLR0915 - as the comment says
            # One function, with Call.claim, claim_outcome and publish written out: a frame would cost every call.
            if call is None:
                return False
            while call is not None:
                start = monotonic()
                if start >= call.expires:
                    call = self._execute_other(call)
                    continue
                try:
                    del call._unstarted
                except AttributeError:  # given up while it was queued
                    call = follow()
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
                    error = raised if isinstance(raised, Exception) else self._as_remote_error(raised, call)
                end = monotonic()
                running[0] = None
                late = end >= call.deadline
                try:
                    del call._unsettled
                except AttributeError:  # given up while it ran
                    call.owner.abandoned_ended(call)
                    call = follow()
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
                    self._recorder_failed(raised)
                # The slot first, the caller second: a caller that calls again at once must find the slot free.
                following = follow()
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
                            inbox.put(following)
                            following = None
                        call.release()
                call = following
            return True

        return execute

    def _execute_other(self, work: Work) -> Call | None:
        """
        Work that is no call to be run: a step of the replica's life, or a call whose time was over when it came up.
        """
        if isinstance(work, _Job):
            self._do(work)
            return None
        work.expire()
        return self._events.follow()

    def _recorder_failed(self, error: BaseException) -> None:
        """Say once that a monitor's recorder raises; its counts are wrong from here on, and nothing else is."""
        if not self._recorder_told:
            self._recorder_told = True
            logging.getLogger("sage_plugins").error(
                "a recorder of %s raised; it is not told again", self._spec.id, exc_info=error
            )

    def _as_remote_error(self, raised: BaseException, call: Call) -> BaseException:
        """What the caller gets for SystemExit and its kind, which would end the caller's thread or process."""
        import traceback

        text = text_of(raised)
        return RemoteError(
            f"{self._spec.service}.{call.method.name} raised {text}; it was kept from ending the replica. Raise an "
            "ordinary exception instead",
            type_name=type(raised).__qualname__,
            original_message=text.partition(": ")[2],
            traceback_text="".join(traceback.format_exception(raised)),
            service=self._spec.service,
            method=call.method.name,
            replica=self._spec.id,
        )


def _compose_record(recorders: list[Recorder]) -> Callable[[int, int, float, float], None]:
    """One function that tells all *recorders*."""
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
