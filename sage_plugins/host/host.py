"""
The host of a replica: builds the instance, runs its life-cycle hooks, and gives work to the strategy's workers.

It is the same for every target. The workers fetch work from the host's inbox and give it to `execute`, which
`thread_worker` or `loop_worker` compose once for each worker.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.config.service_config import plain
from sage_plugins.errors import DeployError, OverloadedError, text_of
from sage_plugins.host.execution import Execution
from sage_plugins.host.inbox import Inbox
from sage_plugins.host.lifecycle import StartHooks, Step
from sage_plugins.host.questions import Questions
from sage_plugins.host.recording import make_monitor, make_recorder
from sage_plugins.host.seat import HostSeat
from sage_plugins.host.thread_loop import WorkerLoop
from sage_plugins.interfaces.control import ControlOp
from sage_plugins.service.factory import ServiceContext, hook
from sage_plugins.service.usage import CALL_COUNT, CallCount
from sage_plugins.values import Outcome, ReplicaInfo, ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.host.lifecycle import Hooks
    from sage_plugins.interfaces import Recorder, RecorderFactory, ReplicaEvents, Runner, Work
    from sage_plugins.values import Choice, ReplicaSpec

__all__ = ["Host"]


#: Seconds that a worker gets to begin the stop hooks, and to end after them, before it counts as stuck.
_STUCK_GRACE_S: Final = 1.0


class Host:
    """
    One replica, in the process where it runs; the same for every target.

    A target makes it with a `ReplicaSpec` and `ReplicaEvents`, and calls `start`. It sends work with `put`, asks with
    `control`, and ends the replica with `stop`.

    Attributes:
        put: Takes a call or batch; never blocks.
        run_here: Runs a call in the calling thread, for strategies without workers; else None.
        slots: Maximum concurrent calls.
        cancel: Cancels the coroutine of a call that was given up; never blocks.
        holds: Counts the work that the replica holds, for slot recovery.
        recorder_failed: Logs the first fault of a monitor's recorder.
    """

    put: Callable[[Work], None]
    run_here: Callable[[Call], None] | None
    slots: int

    def __init__(
        self,
        spec: ReplicaSpec,
        events: ReplicaEvents,
        clock: Clock,
        *,
        node: str | None = None,
        inbox: Inbox | None = None,
    ) -> None:
        """Prepare the replica; nothing runs before `start`. *inbox*: default a new one."""
        self._unfetched: list[Work] = []  # no worker had fetched it when the replica stopped
        self._spec = spec
        self._events = events
        self._clock = clock
        self._recorders: dict[str, Recorder] = {}
        who = ReplicaInfo(spec.service, spec.id, node)
        names = tuple(method.name for method in spec.methods)
        factories: list[tuple[Choice, RecorderFactory]] = [(choice, make_monitor(choice)) for choice in spec.monitors]
        for choice, factory in factories:
            recorder = make_recorder(choice, factory, who, names)
            if recorder is not None:
                self._recorders[choice.id] = recorder
        counted = spec.config.recycle is not None and spec.config.recycle.get("max_calls") is not None
        if counted and "metrics" not in self._recorders:
            self._recorders[CALL_COUNT] = CallCount()
        self._inbox = Inbox() if inbox is None else inbox
        self._loop = WorkerLoop()
        self._execution = Execution(spec, clock, events, self._recorders, self._loop)
        self._instance: Any = None
        self._life = threading.Lock()
        self._stopping: Step | None = None  # guarded by _life, as the next
        self._building = False
        self._starting = Step(self._build, self._loop.run)
        self._runner: Runner | None = None
        self._seat = HostSeat(spec, self._inbox, self._execution, events, self._loop)
        self._questions = Questions(self._execution, self._recorders, lambda: (self._instance, self._runner))
        self.cancel = self._execution.cancel
        self.recorder_failed = self._execution.recorder_failed
        self.holds = self._seat.holds

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """
        Start the workers and let the first one build the instance; return at once.

        Raises:
            DeployError: The threading strategy cannot be made or started; the message names it.
        """
        strategy = self._spec.strategy
        try:
            runner = strategy.create().start(self._seat)
        except Exception as error:
            what = f"threading strategy '{strategy.id}' from {strategy.source} did not start"
            msg = f"service '{self._spec.service}': {what}: {text_of(error)}"
            raise DeployError(msg) from error
        self._runner = runner
        self.slots = runner.slots
        self.run_here = runner.run_here
        self.put = self._inbox.put
        self._events.changed(ReplicaState.STARTING)
        self._submit(self._starting, "start")

    def _submit(self, step: Step, suffix: str) -> None:
        """Let a worker run *step*; without workers, a shared thread, so that waiting for the step can time out."""
        if self._runner is None or self._runner.run_here is None:
            self._inbox.put(step)
            return
        try:
            self._seat.run_aside(step.run, suffix)
        except RuntimeError:  # the interpreter is shutting down and starts no more threads
            step.run()

    def _build(self) -> Hooks:
        spec = self._spec
        context = ServiceContext(spec.service, spec.index, self._events.service)
        context.measure(self._questions.counts, self._execution.metrics)
        with self._life:
            if self._stopping is not None:
                return
            self._building = True
        failure: BaseException | None = None
        hooks = StartHooks(spec.service, self._clock, getattr(self._events, "lane", None))
        try:
            with hooks:
                instance = self._instance = spec.factory.create_service(context)
                self._execution.bind(instance)
                configured = () if spec.config.user_config is None else (plain(spec.config.user_config),)
                for names, args in (
                    (("setup",), ()),
                    (("reconfigure",) if configured else (), configured),
                    (("start_running", "start"), ()),
                    (("warmup",), ()),
                ):
                    for coroutine in hook(instance, *names, args=args):
                        yield hooks.follow(coroutine)
        except BaseException as error:  # noqa: BLE001 - also sys.exit() in a constructor
            failure = error
        with self._life:
            self._building = False
            stopping = self._stopping is not None
        if stopping:  # `stop` found the instance still being built, so this worker runs the stop hooks
            yield from self._end_instance()
        elif failure is None:
            self._events.changed(ReplicaState.READY)
        else:
            self._events.changed(ReplicaState.FAILED, failure)

    def _tear_down(self) -> Hooks:
        with self._life:
            if self._building:  # another worker still runs the constructor or a start hook; it runs the stop hooks then
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

    def begin_stop(self) -> None:
        """End running calls with ServiceStoppedError, let a worker run the stop hooks, and return at once."""
        self.stop(0.0)

    def stop(self, grace: float) -> int:
        """
        Run the stop hooks where calls run, then end the workers; wait at most *grace* seconds in all.

        Workers that are stuck get at most a second; they end when their method does. Calls that still run after
        *grace* end with ServiceStoppedError, and their methods go on. Return the number of workers that still run.

        Idempotent, and safe from any thread.
        """
        runner = self._runner
        if runner is None:
            return 0
        now = self._clock.monotonic()
        until, stuck = now + grace, now + min(grace, _STUCK_GRACE_S)
        with self._life:
            step = self._stopping
            if step is None:
                step = self._stopping = self._execution.stopping = Step(self._tear_down, self._loop.run)
                self._submit(step, "stop")
        # If no worker begins the hooks soon, all are stuck in a method or a constructor.
        if step.begun.wait(stuck - now):
            step.done.wait(max(0.0, until - self._clock.monotonic()))
        # A constructor may still run, on a thread for which no runner waits; that thread then runs the stop hooks.
        self._starting.done.wait(max(0.0, stuck - self._clock.monotonic()))
        with self._life:  # another thread may run `stop`, too
            error, step.error = step.error, None
        if error is not None:
            logging.getLogger("sage_plugins").error("a stop hook of %s raised", self._spec.id, exc_info=error)
        for call in self._execution.calls_running():
            call.give_up(call.stopped_error(self._spec.id), Outcome.STOPPED)
        self._questions.close()
        left = runner.stop(min(max(0.0, until - self._clock.monotonic()), _STUCK_GRACE_S))
        self._unfetched = self.end_unfetched()
        self._questions.end()
        self._execution.unbind()
        if not left:  # otherwise abandoned methods still run, and their workers may still record calls
            self._execution.close_recorders()
        return left

    def end_unfetched(self) -> list[Work]:
        """After the stop, end the calls that no worker has fetched; return their work, each item only once."""
        works, self._unfetched = self._unfetched + self._inbox.take_work(), []
        for call in self._execution.calls_of(works):
            call.give_up(call.stopped_error(self._spec.id), Outcome.STOPPED)
        return works

    def compose_record(self) -> Callable[[int, int, float, float], None]:
        """Return `record(method, outcome, wait_s, run_s)` to count calls given up in this process; not thread-safe."""
        return self._execution.compose_record()

    def control(self, op: ControlOp, arg: Any = None) -> Any:
        """Answer a control operation in the asking thread, even if all slots are taken; changes run where calls run."""
        if op is ControlOp.RECONFIGURE:
            self._reconfigure(*arg)
            return None
        return self._questions.answer(op, arg)

    def _reconfigure(self, user_config: Any, limit_s: float) -> None:
        late = threading.Event()

        def hooks() -> Hooks:
            if self._instance is None:
                msg = f"{self._spec.id} has no instance: it has ended"
                raise RuntimeError(msg)
            if not late.is_set():
                yield from hook(self._instance, "reconfigure", args=(user_config,))

        step = Step(hooks, self._loop.run)
        self._submit(step, "reconfigure")
        if not step.done.wait(limit_s):
            late.set()
            if step.begun.is_set():
                msg = f"it has not returned after {limit_s:g} s and runs on"
                raise TimeoutError(msg)
            msg = f"no worker was free for it in {limit_s:g} s"
            raise OverloadedError(msg, service=self._spec.service, replica=self._spec.id)
        if step.error is not None:
            raise step.error
