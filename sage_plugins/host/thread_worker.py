"""
What a worker's thread does with a piece of work: deadline, claim, context, record, free the slot, release the caller.

Then it goes on to the call that waits for the slot. `loop_worker` has the same for an event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.call.call import Call
from sage_plugins.call.current import CURRENT
from sage_plugins.call.lazy_future import FINISHED
from sage_plugins.host.lifecycle import Step
from sage_plugins.host.thread_loop import UNRUN
from sage_plugins.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.batch import Batch
    from sage_plugins.host.batches import Batches
    from sage_plugins.host.execution import Execution
    from sage_plugins.interfaces import Work

__all__ = ["compose_worker"]


def compose_worker(execution: Execution) -> Callable[[Any], bool]:  # noqa: C901, PLR0915 - see `execute`
    """A worker's `execute`, with all that has one answer decided; for one thread at a time."""
    monotonic, table = execution.clock.monotonic, execution.table
    follow = execution.free if execution.on_loop else execution.events.follow
    record, takes_back = execution.compose_record(), execution.takes_back
    set_current, ok, failed, finished, unrun = CURRENT.set, Outcome.OK, Outcome.ERROR, FINISHED, UNRUN
    hand: list[Any] = [None]
    execution.hands[id(hand)] = hand

    def invoke(call: Call) -> Any:
        set_current(call)
        result = table[call.method.index](*call.args, **call.kwargs)
        return execution.finish(result, call.method.name) if type(result) in unrun else result

    def execute(call: Any) -> bool:  # noqa: C901, PLR0912, PLR0915 - as the comment says
        # One function, with Call.claim, claim_outcome and publish written out: a frame would cost every call.
        if call is None:
            execution.hands.pop(id(hand), None)
            return False
        try:
            while call is not None:
                hand[0] = call
                start = monotonic()
                if start >= call.expires:
                    call = execute_other(call)
                    continue
                try:
                    del call._unstarted
                except AttributeError:  # given up while it was queued
                    call = follow(call)
                    continue
                context = call.context
                call.began = start
                # The context is about to refer to the call: keeping both ways would leave every call to the collector.
                call.context = None
                result: Any = None
                error: BaseException | None = None
                try:
                    result = context.run(invoke, call)
                except BaseException as raised:  # noqa: BLE001 - whatever it is belongs to the caller
                    error = raised if isinstance(raised, Exception) else execution.as_remote_error(raised, call)
                end = execution.latest = call.ended = monotonic()
                late = end >= call.deadline
                if error is not None and takes_back is not None and not late:
                    try_again = takes_back(call, error, context)
                    if try_again is not None:
                        call = follow(call)
                        try_again()
                        continue
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
                    execution.recorder_failed(raised)
                if error is not None and not late:
                    execution.errors.note(call, error, context)
                # The slot first, the caller second: a caller that calls again at once must find the slot free.
                following = follow(call)
                told = call.owner.on_result if error is None else call.owner.on_error
                if told is not None:
                    told(call, error)
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
                        call.release()
                call = following
        finally:
            hand[0] = None
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
        batches = execution.batches
        assert batches is not None  # noqa: S101 - for the type checker: there are no batches of other services
        start = monotonic()
        calls, rows = batches.start(batch, start, record)
        outcomes: list[Any] = []
        if calls:
            try:
                outcomes = batches.context(calls).run(invoke_batch, batches, calls, rows)
            except BaseException as raised:  # noqa: BLE001 - as in `execute`
                outcomes = batches.all_failed(calls, raised)
        return batches.end(batch, calls, outcomes, start, record, follow)

    def invoke_batch(batches: Batches, calls: list[Call], rows: list[tuple[Any, ...]]) -> list[Any]:
        set_current(batches.longest(calls))
        results = batches.call(calls, rows)
        if type(results) in unrun:
            results = execution.finish(results, batches.name(calls))
        return batches.results(calls, results)

    if not execution.on_loop:
        return execute

    def execute_handed(work: Any) -> bool:
        execution.handed.discard(work)
        return execute(work)

    return execute_handed
