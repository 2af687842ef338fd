"""
The replica's process: the instance, its life-cycle hooks, its inbox, and what the strategy gets to see of it.

The same for every target. The strategy's workers fetch work from the host's inbox and give it to `execute`, which
`thread_worker` or `loop_worker` compose once per worker.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.config.service_config import plain
from sage_plugins.errors import OverloadedError
from sage_plugins.host.execution import Execution
from sage_plugins.host.inbox import Inbox
from sage_plugins.host.lifecycle import StartHooks, Step
from sage_plugins.host.questions import Questions
from sage_plugins.host.recording import make_recorder
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


#: Seconds in which a worker that is not stuck comes to the stop hooks, and in which it ends after them.
_STUCK_GRACE_S: Final = 1.0


class Host:
    """
    One replica, in the process where it runs; the same for every target.

    A target makes one with a `ReplicaSpec` and `ReplicaEvents`, calls `start`, gives it work by `put`, asks it by
    `control`, and ends it by `stop`.

    Attributes:
        put: Take a call or batch; never blocks.
        run_here: Run a call in the calling thread, for strategies without workers; else None.
        slots: Calls at once, at most.
        cancel: Stop the coroutine of a call that was given up; never blocks.
        holds: What it holds, for who counts its slots.
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
        """
        Prepare the replica; nothing runs before `start`.

        Args:
            spec: What to run.
            events: Whom to tell.
            clock: For deadlines and durations.
            node: Where this is, for the recorders.
            inbox: Where work waits; one of its own by default.
        """
        self._unfetched: list[Work] = []  # when it stopped
        self._spec = spec
        self._events = events
        self._clock = clock
        self._recorders: dict[str, Recorder] = {}
        who = ReplicaInfo(spec.service, spec.id, node)
        names = tuple(method.name for method in spec.methods)
        factories: list[tuple[Choice, RecorderFactory]] = [(choice, choice.create()) for choice in spec.monitors]
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
        self.holds = self._seat.holds

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
        """Have a worker do *step*; without workers, a thread of all services: so waiting for it can end."""
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

    def begin_stop(self) -> None:
        """End the calls that run with ServiceStoppedError, and have a worker run the stop hooks; returns at once."""
        self.stop(0.0)

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
        with self._life:  # another thread may stop it too
            error, step.error = step.error, None
        if error is not None:
            logging.getLogger("sage_plugins").error("a stop hook of %s raised", self._spec.id, exc_info=error)
        for call in self._execution.calls_running():
            call.give_up(call.stopped_error(self._spec.id), Outcome.STOPPED)
        self._questions.close()
        left = runner.stop(min(max(0.0, until - self._clock.monotonic()), _STUCK_GRACE_S))
        self._unfetched = self.end_unfetched()
        self._questions.end()
        if not left:  # else abandoned methods still run, and their workers may count
            self._execution.close_recorders()
        return left

    def end_unfetched(self) -> list[Work]:
        """Once it has stopped: end the calls that no worker has fetched, for none will; gives their work, once."""
        works, self._unfetched = self._unfetched + self._inbox.take_work(), []
        for call in self._execution.calls_of(works):
            call.give_up(call.stopped_error(self._spec.id), Outcome.STOPPED)
        return works

    def compose_record(self) -> Callable[[int, int, float, float], None]:
        """`record(method, outcome, wait_s, run_s)` for who gives up calls in this process; one thread at a time."""
        return self._execution.compose_record()

    def control(self, op: ControlOp, arg: Any = None) -> Any:
        """Answer a question beside the calls, in the asking thread; a change is made where calls run."""
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
