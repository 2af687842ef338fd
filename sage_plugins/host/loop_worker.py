"""
`thread_worker` for a strategy with an event loop: a coroutine runs as a task, cancelled when its call is given up.

Everything here runs on that loop.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from math import inf
from typing import TYPE_CHECKING, Any

from sage_plugins.call.batch import Batch
from sage_plugins.call.current import CURRENT
from sage_plugins.call.event_loops import LOOPS_OF_REPLICAS
from sage_plugins.host.lifecycle import Step
from sage_plugins.host.thread_loop import UNRUN
from sage_plugins.values import COROUTINES, MethodKind

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sage_plugins.call.call import Call
    from sage_plugins.host.batches import Batches
    from sage_plugins.host.execution import Execution
    from sage_plugins.interfaces import Work

__all__ = ["compose_start"]


def compose_start(  # noqa: C901, PLR0915 - closures over what does not change
    execution: Execution, follow: Callable[[Work], Work | None], put: Callable[[Work], None]
) -> Callable[[Work], bool]:
    """
    Return a function that starts work as a task of the running loop; the function returns False for thread work.

    Args:
        execution: The instance's methods.
        follow: Returns the work that gets the slot of work that has ended.
        put: Takes work that must run in a thread.
    """
    loop = execution.event_loop = asyncio.get_running_loop()
    LOOPS_OF_REPLICAS[loop] = True
    begin = _compose_begin(loop)
    monotonic, table, tasks = execution.clock.monotonic, execution.table, execution.tasks
    record, set_current = execution.compose_record(), CURRENT.set
    batched = execution.batched
    deadlines = _Deadlines(loop, execution)

    async def run(call: Call) -> None:
        start = monotonic()
        if start >= call.expires:
            call.expire()
        elif call.claim():
            set_current(call)
            call.began = start
            call.context = None  # as in `thread_worker`
            if call.deadline < deadlines.due:
                deadlines.watch(call.deadline, start)
            result: Any = None
            error: BaseException | None = None
            try:
                result = await table[call.method.index](*call.args, **call.kwargs)
                if type(result) in UNRUN:
                    result = await execution.afinish(result, call.method.name)
            except BaseException as raised:  # noqa: BLE001 - any exception goes to the caller
                error = raised if isinstance(raised, Exception) else execution.as_remote_error(raised, call)
            call.task = None
            end_call(call, result, error, start)
            return
        call.task = None
        following = follow(call)
        tasks.discard(call)  # after `follow`: slot recovery must count it until its slot is free
        go_on(following)

    def end_call(call: Call, result: Any, error: BaseException | None, start: float) -> None:
        end = monotonic()
        if end >= call.deadline:
            result, error = None, call.timeout_error(ended=True)
        elif error is not None and execution.takes_back is not None:
            try_again = execution.takes_back(call, error)
            if try_again is not None:
                following = follow(call)
                tasks.discard(call)
                try_again()
                go_on(following)
                return
        settled = execution.settles(call, error, start, end, record)
        if not settled:
            call.owner.abandoned_ended(call)
        following = follow(call)
        tasks.discard(call)
        if settled:
            call.publish(result, error)
        go_on(following)

    async def run_batch(batch: Batch) -> None:
        batches = execution.batches
        assert batches is not None  # noqa: S101 - for the type checker: there are no batches of other services
        start = monotonic()
        calls, rows = batches.start(batch, start, record)
        outcomes: list[Any] = []
        if calls:
            # A task of its own, because it runs in a caller's context. No single caller can cancel it.
            task = loop.create_task(call_batch(batches, calls, rows), context=batches.context(calls))
            batched.update(calls)
            outcomes = await task
            batched.difference_update(calls)
        go_on(batches.end(batch, calls, outcomes, start, record, follow))

    async def call_batch(batches: Batches, calls: list[Call], rows: list[tuple[Any, ...]]) -> list[Any]:
        set_current(batches.longest(calls))
        try:
            return batches.results(calls, await batches.call(calls, rows))
        except BaseException as raised:  # noqa: BLE001 - any exception goes to the callers
            return batches.all_failed(calls, raised)

    def keep(coroutine: Coroutine[Any, Any, None]) -> bool:
        task = loop.create_task(coroutine)
        execution.batch_tasks.add(task)
        task.add_done_callback(execution.batch_tasks.discard)
        return True

    def start(work: Work) -> bool:
        if isinstance(work, Batch):
            return keep(run_batch(work)) if work.plan.kind is MethodKind.ASYNC else hand_over(work)
        if isinstance(work, Step):
            step = loop.create_task(work.arun())
            execution.steps.add(step)
            step.add_done_callback(execution.steps.discard)
            return True
        if work.method.kind not in COROUTINES:
            return hand_over(work)
        tasks.add(work)
        work.on_loop = True
        begin(work, run(work))
        return True

    def hand_over(work: Work) -> bool:
        for call in execution.calls_of([work]):
            call.off_loop = True
        execution.handed.add(work)
        return False

    def go_on(following: Work | None) -> None:
        if following is not None and not start(following):
            put(following)

    return start


def _compose_begin(loop: asyncio.AbstractEventLoop) -> Callable[[Call, Coroutine[Any, Any, None]], None]:
    """
    Return a function that makes a coroutine the task of a call and runs its first step at once, outside any other task.

    A task from `create_task` runs its first step in the loop's next iteration, which costs one more poll of the
    selector. Most calls end with that first step. `eager_start` exists only from Python 3.12, and gives the task only
    after the step. So `call_soon` is replaced while a task is made, and keeps the task's first step. Other callbacks,
    for example of a finalizer that runs at that moment, still go to the loop.
    """
    steps: list[Callable[[], None]] = []
    schedule = loop.call_soon
    begun: list[Context] = []

    def keep(do: Callable[..., None], *args: Any, context: Context | None = None) -> asyncio.Handle | None:
        if context is None or context is not begun[-1]:
            return schedule(do, *args, context=context)
        steps.append(do)
        return None

    def begin(call: Call, coroutine: Coroutine[Any, Any, None]) -> None:
        context = call.context
        assert context is not None  # noqa: S101 - for the type checker: a call that has not started has it
        if asyncio.current_task(loop) is not None:  # a task cannot run a step inside the step of another
            call.task = loop.create_task(coroutine, context=context)
            return
        begun.append(context)
        loop.call_soon = keep  # type: ignore[method-assign,assignment] # for the next line only
        try:
            call.task = asyncio.Task(coroutine, loop=loop, context=context)
        finally:
            del loop.call_soon  # the instance attribute, which hid the method
            begun.clear()
        context.run(steps.pop())

    def begin_later(call: Call, coroutine: Coroutine[Any, Any, None]) -> None:
        call.task = loop.create_task(coroutine, context=call.context)

    return begin if hasattr(loop, "__dict__") else begin_later  # uvloop does not allow another `call_soon`


class _Deadlines:
    """
    Ends running calls at their deadline, with one timer for all, because most calls end long before their deadline.

    Attributes:
        due: `monotonic()` of the next check; inf if none is planned.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, execution: Execution) -> None:
        self.due = inf
        self._loop = loop
        self._execution = execution
        self._timer: asyncio.TimerHandle | None = None
        self._context = Context()  # an empty one, because the timer would keep the call's context alive

    def watch(self, deadline: float, now: float) -> None:
        """Check at *deadline*, which is earlier than the next check."""
        if self._timer is not None:
            self._timer.cancel()
        self.due = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - now), self._look, context=self._context)

    def _look(self) -> None:
        self._timer = None
        self.due = inf
        now = self._execution.clock.monotonic()
        for call in list(self._execution.tasks):
            if not call.unstarted() and not call.settled() and not call.expire() and call.deadline < self.due:
                self.due = call.deadline
        if self.due < inf:
            # At least 1 ms, because a virtual clock may stand still.
            self._timer = self._loop.call_later(max(0.001, self.due - now), self._look, context=self._context)
