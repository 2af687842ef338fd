"""
The replica's process: the instance, its life-cycle hooks, its inbox, and what the strategy gets to see of it.

The same for every target. The strategy's workers fetch work from the host's inbox and give it to `execute`, which
`envelope` composes once per worker.
"""

from __future__ import annotations

import inspect
import logging
import os
import threading
from contextlib import suppress
from math import inf
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.host.execution import Envelope
from sage_plugins.host.loop_checks import LoopChecks
from sage_plugins.host.steps import Step
from sage_plugins.host.thread_loop import WorkerLoop
from sage_plugins.interfaces import ControlOp
from sage_plugins.service.factory import ServiceContext, hook
from sage_plugins.values import Outcome, ReplicaInfo, ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.host.steps import Hooks
    from sage_plugins.interfaces import Recorder, ReplicaEvents, Runner, Work
    from sage_plugins.values import ReplicaSpec

__all__ = ["Host"]


#: Seconds in which a worker that is not stuck comes to the stop hooks, and in which it ends after them.
_STUCK_GRACE_S: Final = 1.0


class _Inbox:
    """Where work waits for a worker; a loop that fetches it is told when there is some."""

    def __init__(self) -> None:
        queue: SimpleQueue[Any] = SimpleQueue()
        self.put: Callable[[Work | None], None] = queue.put
        self.get: Callable[[], Work | None] = queue.get
        self.size: Callable[[], int] = queue.qsize
        self._queue = queue
        self._asleep: list[None] = []  # a token while the loop has seen it empty
        self._wake: Callable[[], None]

    def get_within(self, seconds: float) -> Work | None:
        """The next work; raises queue.Empty if there is none for so long."""
        return self._queue.get(timeout=seconds)

    def notify(self, wake: Callable[[], None]) -> None:
        """Have *wake* called, from any thread, when work comes and `get_nowait` has found none before."""
        self._wake = wake
        self.put = self._put

    def _put(self, work: Work | None) -> None:
        self._queue.put(work)
        if self._asleep:
            try:
                self._asleep.pop()
            except IndexError:  # somebody else wakes it
                return
            self._wake()

    def take_work(self) -> list[Work]:
        """Every call and batch that waits; what ends workers stays."""
        found: list[Work] = []
        stays: list[Work | None] = []
        with suppress(Empty):
            while True:
                work = self._queue.get_nowait()
                (stays if work is None or isinstance(work, Step) else found).append(work)
        for work in stays:
            self._queue.put(work)
        return found

    def get_nowait(self) -> Work | None:
        """The next work, or None: then whoever brings some wakes the loop."""
        while True:
            try:
                return self._queue.get_nowait()
            except Empty:
                self._asleep.append(None)
            if not self._queue.qsize():
                return None
            try:  # work came between the two looks
                self._asleep.pop()
            except IndexError:  # and its sender wakes the loop
                return None


class _Seat:
    """`interfaces.LoopSeat` for one host."""

    def __init__(
        self, spec: ReplicaSpec, inbox: _Inbox, envelope: Envelope, events: ReplicaEvents, loop: WorkerLoop
    ) -> None:
        self.name = spec.id
        self.limits = spec.limits
        self.get = inbox.get
        self.get_within = inbox.get_within
        self.get_nowait = inbox.get_nowait
        self.waiting = inbox.size
        self.worker = envelope.worker
        self._inbox = inbox
        self._envelope = envelope
        self._events = events
        self._loop = loop

    def end_worker(self) -> None:
        self._inbox.put(None)

    def on_ready(self, wake: Callable[[], None]) -> None:
        self._envelope.on_loop = True
        self._inbox.notify(wake)

    def starter(self, in_thread: Callable[[Work], None]) -> Callable[[Work], bool]:
        from sage_plugins.host.loop_worker import compose_start  # imports asyncio

        return compose_start(self._envelope, self._events.follow, in_thread)

    async def steps_over(self) -> None:
        import asyncio

        while steps := self._envelope.steps:
            await asyncio.wait(steps)

    def spawn(self, run: Callable[[], None], suffix: str) -> threading.Thread:
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
        cancel: Stop the coroutine of a call that was given up; never blocks.
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
        self._inbox = _Inbox()
        self._loop = WorkerLoop()
        self._envelope = Envelope(spec, clock, events, list(self._recorders.values()), self._loop, self._inbox.put)
        self._instance: Any = None
        self._life = threading.Lock()
        self._stopping: Step | None = None  # guarded by _life, as the next
        self._building = False
        self._checks = LoopChecks()
        self._starting = Step(self._build, self._loop.run)
        self._runner: Runner | None = None
        self._seat = _Seat(spec, self._inbox, self._envelope, events, self._loop)
        self.cancel = self._envelope.cancel

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers and let the first one build the instance; returns at once."""
        runner = self._spec.strategy.create().start(self._seat)
        self._runner = runner
        self.slots = runner.slots
        self.run_here = runner.run_here
        self.put = self._inbox.put
        self._events.changed(ReplicaState.STARTING)
        self._submit(self._starting, "start")

    def _submit(self, step: Step, suffix: str) -> None:
        """Have a worker do *step*; a strategy without workers gets a thread for it, so that waiting for it can end."""
        if self._runner is None or self._runner.run_here is None:
            self._inbox.put(step)
            return
        try:
            self._seat.spawn(step.run, suffix)
        except RuntimeError:  # the interpreter is shutting down and starts no more threads
            step.run()

    def _build(self) -> Hooks:
        spec = self._spec
        context = ServiceContext(spec.service, spec.index, self._events.service)
        context.measure(self._counts)
        with self._life:
            if self._stopping is not None:
                return
            self._building = True
        failure: BaseException | None = None
        try:
            instance = self._instance = spec.factory.create_service(context)
            self._envelope.bind(instance)
            yield from hook(instance, "setup")
            yield from hook(instance, "start_running", "start")
            yield from hook(instance, "warmup")
        except BaseException as error:  # noqa: BLE001 - also sys.exit() in a constructor
            failure = error
        with self._life:
            self._building = False
            stopping = self._stopping is not None
        if stopping:  # nobody waited for this any more, and the stop hooks were left to this worker
            yield from self._end_instance()
        elif failure is None:
            self._events.changed(ReplicaState.READY)
        else:
            self._events.changed(ReplicaState.FAILED, failure)

    def _tear_down(self) -> Hooks:
        with self._life:
            if self._building:  # the constructor or a start hook still runs on another worker, which does the rest
                return
        yield from self._end_instance()

    def _end_instance(self) -> Hooks:
        with self._life:
            instance, self._instance = self._instance, None
        if instance is None:
            return
        try:
            yield from hook(instance, "stop")
        finally:
            yield from hook(instance, "cleanup", "close")

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
        now = self._clock.monotonic()
        until, stuck = now + grace, now + min(grace, _STUCK_GRACE_S)
        with self._life:
            step = self._stopping
            if step is None:
                step = self._stopping = Step(self._tear_down, self._loop.run)
                self._submit(step, "stop")
        # A worker that does not come to the hooks soon is stuck in a method or a constructor.
        if step.begun.wait(stuck - now):
            step.done.wait(max(0.0, until - self._clock.monotonic()))
        # The hooks may be left to a constructor that still runs, on a thread for which no runner waits.
        self._starting.done.wait(max(0.0, stuck - self._clock.monotonic()))
        if step.error is not None:
            logging.getLogger("sage_plugins").error("a stop hook of %s raised", self._spec.id, exc_info=step.error)
            step.error = None
        for call in self._envelope.calls_running():
            call.give_up(call.stopped_error(self._spec.id), Outcome.STOPPED)
        self._checks.close()
        left = runner.stop(min(max(0.0, until - self._clock.monotonic()), _STUCK_GRACE_S))
        for call in self._envelope.calls_of(self._inbox.take_work()):  # nobody has fetched it, and nobody will
            call.give_up(call.stopped_error(self._spec.id), Outcome.STOPPED)
        self._checks.end()
        return left

    def compose_record(self) -> Callable[[int, int, float, float], None]:
        """`record(method, outcome, wait_s, run_s)` for who gives up calls in this process; one thread at a time."""
        return self._envelope.compose_record()

    def control(self, op: ControlOp, arg: Any = None) -> Any:
        """Answer a question beside the calls, in the asking thread."""
        if op is ControlOp.STATS:
            return self._stats()
        if op is ControlOp.CHECK:
            return self._check("check_health")
        if op is ControlOp.READY:
            return self._check("check_ready")
        if op in {ControlOp.GET, ControlOp.SET, ControlOp.TERMINATE}:
            from sage_plugins.host.instance_access import access  # few ask for it

            return access(op, arg, self._instance, self._spec.id)
        msg = f"unknown control operation {op!r}"
        raise ValueError(msg)

    def _stats(self) -> Mapping[str, Any]:
        snapshots = {}
        for id, recorder in self._recorders.items():
            try:
                snapshots[id] = recorder.snapshot()
            except Exception as error:  # noqa: BLE001 - a plugin's fault must not take the whole status away
                self._envelope.recorder_failed(error)
        return {
            "runner": None if self._runner is None else self._runner.stats(),
            "recorders": snapshots,
            "pid": os.getpid(),
            "idle": None if self._envelope.latest == -inf else self._clock.monotonic() - self._envelope.latest,
        }

    def _counts(self) -> Mapping[str, Any]:
        """What the monitor `metrics` has counted here, if it is there."""
        for choice, monitor in zip(self._spec.monitors, self._monitors, strict=True):
            if choice.id == "metrics" and choice.id in self._recorders:
                counts: Mapping[str, Any] = monitor.summary([self._recorders[choice.id].snapshot()])
                return counts
        return {}

    def _check(self, hook: str) -> bool:
        check = getattr(self._instance, hook, None)
        loop = self._envelope.event_loop
        if loop is not None and inspect.iscoroutinefunction(check):
            outcome = self._checks.ask(check, loop)
        else:
            outcome = None if check is None else check()
        if inspect.iscoroutine(outcome):
            import asyncio

            outcome = asyncio.run(outcome)
        if outcome is False:
            msg = f"{hook}() of {self._spec.id} returned False"
            raise RuntimeError(msg)
        return True
