"""Runs batches: calls of one method that are answered together. Imported only by replicas with such methods."""

from __future__ import annotations

from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.call.batch import binder
from sage_plugins.host.thread_loop import UNRUN
from sage_plugins.metrics import HISTOGRAM_EDGES_S
from sage_plugins.service.own_metrics import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sage_plugins.call.batch import Batch
    from sage_plugins.call.call import Call
    from sage_plugins.host.execution import Execution, Record
    from sage_plugins.interfaces import Work

    _Outcome = tuple[Call, Any, BaseException | None]

__all__ = ["Batches"]


_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
#: For fewer callers than this, waking them is faster than starting another thread that does it.
_FEW: Final = 4
_WAIT: Final = "Time from the first call of a batch to its start."


class Batches:
    """Runs the batch methods of one instance: claims the calls, checks the results and settles the calls."""

    def __init__(self, execution: Execution) -> None:
        """
        Begin without methods.

        Args:
            execution: The replica's execution; settles the calls.
        """
        self._execution = execution
        self._table: dict[int, tuple[Callable[..., Any], Callable[..., tuple[Any, ...]]]] = {}
        metrics, method = execution.metrics(), ("method",)
        self._sizes = metrics.add(Histogram("sage_batch_size", "Calls that ran together.", method, _SIZES))
        self._waits = metrics.add(Histogram("sage_batch_wait_seconds", _WAIT, method, HISTOGRAM_EDGES_S))

    def bind(self, index: int, batch_method: Callable[..., Any], method: Callable[..., Any]) -> None:
        """Answer calls of *method*, which has this *index*, with *batch_method*."""
        self._table[index] = (batch_method, binder(method))

    def unbind(self, gone: Callable[..., Any]) -> None:
        """Replace the methods by *gone*, as the instance has ended."""
        self._table = {index: (gone, bind) for index, (_, bind) in self._table.items()}

    def call(self, calls: Sequence[Call], rows: Sequence[tuple[Any, ...]]) -> Any:
        """Call the batch method of *calls* with their arguments: a list for each parameter."""
        batch_method, _ = self._table[calls[0].method.index]
        return batch_method(*map(list, zip(*rows, strict=True)))

    @staticmethod
    def longest(calls: Sequence[Call]) -> Call:
        """Return the call whose context and deadline a batch method gets: the one with the most time left."""
        return max(calls, key=lambda call: call.deadline)

    def context(self, calls: Sequence[Call]) -> Any:
        """Return the context in which the batch method runs, and drop the contexts of all calls, as a worker does."""
        context = self.longest(calls).context
        for call in calls:
            call.context = None
        return context

    def start(self, batch: Batch, now: float, record: Record) -> tuple[list[Call], list[tuple[Any, ...]]]:
        """Claim the calls of *batch* that are not given up; return them and their arguments."""
        _, bind = self._table[batch.method.index]
        calls: list[Call] = []
        rows: list[tuple[Any, ...]] = []
        for call in batch.calls:
            if now >= call.expires:
                call.expire()
            elif call.claim():
                call.began = now
                try:
                    rows.append(bind(call.args, call.kwargs))
                except TypeError as error:  # the fault of this caller; the other calls go on
                    error.args = (f"{call.method.name}() {error}",)
                    if self._execution.settles(call, error, now, now, record):
                        call.publish(None, error)
                    else:
                        call.owner.abandoned_ended(call)
                else:
                    calls.append(call)
        batch.owner.batch_started(batch, len(calls))
        if calls:
            name = batch.method.name
            self._sizes.labels(name).observe(len(calls))
            self._waits.labels(name).observe(max(0.0, now - min(call.since for call in calls)))
        return calls, rows

    def results(self, calls: Sequence[Call], results: Any) -> list[Any]:
        """Return *results* as a list, after a check that there is one for each call."""
        if not isinstance(results, (list, tuple)) or len(results) != len(calls):
            given = f"{len(results)} results" if isinstance(results, (list, tuple)) else f"a {type(results).__name__}"
            msg = (
                f"{self._execution.spec.service}.{self.name(calls)} must return a list with one result for "
                f"each call, in their order: it got {len(calls)} and returned {given}"
            )
            raise TypeError(msg)
        found = list(results)
        if not UNRUN.isdisjoint(map(type, found)):
            name = self.name(calls)
            found = [self._refused(each, name) if type(each) in UNRUN else each for each in found]
        return found

    def _refused(self, unrun: Any, name: str) -> TypeError:
        """Return the error that replaces a result which is a coroutine or a generator."""
        if not isinstance(unrun, CoroutineType):
            return self._execution.refuse_generator(unrun, name)
        unrun.close()
        return TypeError(
            f"{self._execution.spec.service}.{name} returned a coroutine among its results: await it there"
        )

    @staticmethod
    def name(calls: Sequence[Call]) -> str:
        """Return the name of the batch method of *calls*."""
        plan = calls[0].method.batch
        return plan.name if plan else ""

    def all_failed(self, calls: Sequence[Call], raised: BaseException) -> list[Any]:
        """Return the outcomes of calls whose batch method raised."""
        error = raised if isinstance(raised, Exception) else self._execution.as_remote_error(raised, calls[0])
        return [error] * len(calls)

    @staticmethod
    def _have_told(batch: Batch, over: list[_Outcome]) -> list[_Outcome]:
        """
        Let another thread wake the waiting callers, which takes a system call each; return the calls left to publish.

        This thread answers callers in other processes: the next batch may not let another thread run.
        """
        waited_for: list[_Outcome] = []
        others: list[_Outcome] = []
        for each in over:
            (waited_for if each[0].wakes_a_thread() else others).append(each)
        if len(waited_for) >= _FEW:
            try:
                batch.owner.aside(partial(_tell, waited_for))
            except RuntimeError:  # no thread can be started any more
                return over
            return others
        return over

    def end(  # noqa: PLR0913, PLR0917 - for the two kinds of workers only
        self,
        batch: Batch,
        calls: Sequence[Call],
        outcomes: Sequence[Any],
        start: float,
        record: Record,
        follow: Callable[[Work], Work | None],
    ) -> Work | None:
        """Settle the calls of a batch that has run; return the work that gets its slot."""
        end = self._execution.clock.monotonic()
        over: list[_Outcome] = []
        again: list[Callable[[], None]] = []
        takes_back = self._execution.takes_back
        for call, outcome in zip(calls, outcomes, strict=True):
            error = outcome if isinstance(outcome, BaseException) else None
            if end >= call.deadline:
                error = call.timeout_error(ended=True)
            elif error is not None and takes_back is not None:
                try_again = takes_back(call, error)
                if try_again is not None:
                    again.append(try_again)
                    continue
            if self._execution.settles(call, error, start, end, record):
                over.append((call, None if error is not None else outcome, error))
            else:
                call.owner.abandoned_ended(call)
        following = follow(batch)
        if following is not None:
            over = self._have_told(batch, over)
        _tell(over)
        for try_again in again:
            try_again()
        return following


def _tell(over: Iterable[_Outcome]) -> None:
    """Publish the outcomes of calls."""
    for call, result, error in over:
        call.publish(result, error)
