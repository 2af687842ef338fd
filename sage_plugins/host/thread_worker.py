"""
Runs work in a worker's thread.

A worker checks the deadline, claims the call, runs the method, records it, frees the slot, and wakes the caller. Then
it runs the next call that waits for the slot. `loop_worker` does the same on an event loop.
"""

from __future__ import annotations

from math import inf
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

__all__ = ["Worker", "compose_worker"]

_OK, _ERROR, _TIMEOUT = Outcome.OK, Outcome.ERROR, Outcome.TIMEOUT
_set_current = CURRENT.set


def compose_worker(execution: Execution) -> Callable[[Any], bool]:
    """Make a worker and return its `execute`; for one thread at a time."""
    worker = Worker(execution)
    return worker.execute_handed if execution.on_loop else worker.execute


class Worker:
    """
    One worker of a replica.

    Not a closure, whose variables are separate objects: with a thousand replicas, a call would wait for about forty of
    them to come into the processor's cache. Here they are in one object.

    Attributes:
        at: The work that it does; None if it does none.
        ended: `monotonic()` when its last call or batch ended.
    """

    __slots__ = ("at", "ended", "execution", "follow", "monotonic", "record", "table", "takes_back")

    def __init__(self, execution: Execution) -> None:
        """Make a worker; decide here what is the same for all calls."""
        self.execution = execution
        self.monotonic, self.table = execution.clock.monotonic, execution.table
        self.follow = execution.free if execution.on_loop else execution.events.follow
        self.record, self.takes_back = execution.compose_record(), execution.takes_back
        self.ended = -inf
        self.at: Any = None
        execution.workers[self] = None

    def execute_handed(self, work: Any) -> bool:
        """`execute` for a thread beside an event loop."""
        self.execution.handed.discard(work)
        return self.execute(work)

    def execute(self, call: Any) -> bool:  # noqa: C901, PLR0912, PLR0915 - see the comment
        """As `interfaces.Seat.worker` says."""
        # One function, with Call.claim, claim_outcome and publish inlined: each frame would cost every call.
        if call is None:
            self.execution.end_worker(self)
            return False
        monotonic, follow = self.monotonic, self.follow
        try:
            while call is not None:
                self.at = call
                start = monotonic()
                if start >= call.expires:
                    call = self._execute_other(call)
                    continue
                try:
                    del call._unstarted
                except AttributeError:  # it was given up before it started
                    self.ended = start
                    call = follow(call)
                    continue
                context = call.context
                call.began = start
                # The context is about to refer to the call. References both ways would need the garbage collector.
                call.context = None
                result: Any = None
                error: BaseException | None = None
                try:
                    result = context.run(self._invoke, call)
                except BaseException as raised:  # noqa: BLE001 - any exception goes to the caller
                    error = raised if isinstance(raised, Exception) else self.execution.as_remote_error(raised, call)
                end = self.ended = call.ended = monotonic()
                late = end >= call.deadline
                if error is not None and self.takes_back is not None and not late:
                    try_again = self.takes_back(call, error, context)
                    if try_again is not None:
                        call = follow(call)
                        try_again()
                        continue
                try:
                    del call._unsettled
                except AttributeError:  # it was given up while it ran
                    call.owner.abandoned_ended(call)
                    call = follow(call)
                    continue
                if late:  # no thread has given it up yet, but a late result is dropped all the same
                    result, error = None, call.timeout_error(ended=True)
                try:
                    self.record(
                        call.method.index,
                        _OK if error is None else _TIMEOUT if late else _ERROR,
                        start - call.since,
                        end - start,
                    )
                except BaseException as raised:  # noqa: BLE001 - a plugin's fault must reach neither worker nor caller
                    self.execution.recorder_failed(raised)
                if error is not None and not late:
                    self.execution.errors.note(call, error, context)
                # Free the slot before waking the caller: a caller that calls again at once must find the slot free.
                following = follow(call)
                told = call.owner.on_result if error is None else call.owner.on_error
                if told is not None:
                    told(call, error)
                call._result = result
                call._exception = error
                call._over = FINISHED
                latch = call._latch
                if latch is not None:
                    if call._shared is None:
                        try:  # noqa: SIM105 - contextlib.suppress would delay the caller
                            latch.release()
                        except RuntimeError:  # a grant has released it before
                            pass
                    else:
                        call.release()
                call = following
        finally:
            self.at = None
        return True

    def _invoke(self, call: Call) -> Any:
        _set_current(call)
        result = self.table[call.method.index](*call.args, **call.kwargs)
        return self.execution.finish(result, call.method.name) if type(result) in UNRUN else result

    def _execute_other(self, work: Any) -> Work | None:
        """
        Handle work that is not a call to run: a life-cycle step, a batch, or a call whose time is over.
        """
        if isinstance(work, Step):
            work.run()
            return None
        self.ended = self.monotonic()
        if isinstance(work, Call):
            work.expire()
            return self.follow(work)
        return self._execute_batch(work)

    def _execute_batch(self, batch: Batch) -> Work | None:
        batches = self.execution.batches
        assert batches is not None  # noqa: S101 - for the type checker: there are no batches of other services
        start = self.monotonic()
        calls, rows = batches.start(batch, start, self.record)
        outcomes: list[Any] = []
        if calls:
            try:
                outcomes = batches.context(calls).run(self._invoke_batch, batches, calls, rows)
            except BaseException as raised:  # noqa: BLE001 - as in `execute`
                outcomes = batches.all_failed(calls, raised)
        return batches.end(batch, calls, outcomes, start, self.record, self.follow)

    def _invoke_batch(self, batches: Batches, calls: list[Call], rows: list[tuple[Any, ...]]) -> list[Any]:
        _set_current(batches.longest(calls))
        results = batches.call(calls, rows)
        if type(results) in UNRUN:
            results = self.execution.finish(results, batches.name(calls))
        return batches.results(calls, results)
