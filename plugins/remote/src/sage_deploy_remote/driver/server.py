"""Takes calls of other processes for a service of this process, and passes them to its router."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from sage_deploy_remote.link.outstanding import call_holding
from sage_deploy_remote.link.serving.calls import CallServer
from sage_deploy_remote.link.serving.report import report_of
from sage_plugins.call import deadlock
from sage_plugins.call.batch import Batch
from sage_plugins.call.call import Call
from sage_plugins.call.current import CURRENT
from sage_plugins.call.stream import StreamCall
from sage_plugins.routing.handles.binding import run_here
from sage_plugins.threads import CALLBACKS
from sage_plugins.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.interfaces import ReachableService, Work

__all__ = ["DriverServer"]


class DriverServer(CallServer):
    """
    Serves callers in other processes in place of replicas. Thread-safe.

    For each of their calls, it makes a second call for the service's router, which queues it with all others, runs it
    and counts it. The two calls share their times, the channel of a stream, and the chain of waiting calls. So a
    deadlock that leads through this process is detected.
    """

    def __init__(self, service: ReachableService, id: str) -> None:
        composition = service.composition
        super().__init__(composition.name, id, None, composition.methods, service.clock)
        self._router = service.router
        self._queue_timeout: float | None = composition.config.queue_timeout
        self._runs_here = "in_callers_thread" in composition.strategy.registration.capabilities
        #: For each call: the call that runs for it, and the call that may wait for it. Changed by single operations.
        self._local_calls: dict[Call, tuple[Call, Call | None]] = {}

    @property
    def slots(self) -> float:
        """No limit: each caller respects the slots that it was told, and the router has a queue."""
        return inf

    def put(self, work: Work) -> None:
        """Pass the calls of *work* to the router."""
        calls = work.calls if isinstance(work, Batch) else (work,)
        left = [None] * (len(calls) - 1)  # popping is atomic, so exactly one thread finds the list empty
        for served in calls:
            self._pass_on(served, partial(self._one_ended, work, left))

    def _one_ended(self, work: Work, left: list[None]) -> Work | None:
        """Note that a call of *work* has ended. After the last one, return the work that follows in its slot."""
        try:
            left.pop()
        except IndexError:
            return self.work_ended(work)
        return None

    def _pass_on(self, served: Call, ended: Callable[[], Work | None]) -> None:
        if not served.claim():  # it was given up before
            self._run_following(ended())
            return
        local_call, waiter = self._make_local_call(served)
        self._local_calls[served] = local_call, waiter
        local_call.on_over(partial(self._ended, served, waiter, ended))
        assert local_call.context is not None  # noqa: S101 - for the type checker: the call is not shared yet
        context = local_call.context.copy()  # a worker that runs the call enters the original, maybe now
        if self._runs_here:
            CALLBACKS.run(partial(context.run, run_here, local_call, self._router))
        else:
            context.run(self._route, local_call)
        if served.waits:
            self.caller_waits(served)
        if local_call.expires < local_call.deadline and local_call.unstarted():  # its caller checks only the deadline
            self.clock.call_at(local_call.expires, partial(_expire, local_call))
        if served.settled():  # its caller gave it up before there was anything to cancel
            self.cancel(served)

    def _route(self, local_call: Call) -> None:
        try:
            self._router.route(local_call)
        except BaseException as error:  # noqa: BLE001 - the router refused the call, and its caller must know
            if local_call.turned_away is error:
                local_call.publish(None, error)
            else:
                local_call.refuse(error)

    def _make_local_call(self, served: Call) -> tuple[Call, Call | None]:
        """
        Return the call that runs for *served*, and the call of this process that waits for it, or None.

        The waiting call was sent to the process in which *served* was made, or to one before it in the chain.
        """
        waiter = next(filter(None, map(call_holding, reversed(served.chain[:-1]))), None)
        context, served.context = served.context, None  # avoids a cycle: the context will refer to *served*
        assert context is not None  # noqa: S101 - for the type checker: it was made with one
        if len(served.chain) > 1:  # a method of a service made it
            context.run(CURRENT.set, served)
        expires = served.deadline
        if self._queue_timeout is not None:
            expires = min(expires, served.since + self._queue_timeout)
        fields: tuple[Any, ...] = (
            self._router,
            served.method,
            served.args,
            served.kwargs,
            served.options,
            served.since,
            served.deadline,
            expires,
            context,
        )
        if isinstance(served, StreamCall):
            local_call: Call = StreamCall(*fields, item_timeout=inf)
            local_call.channel = served.channel  # type: ignore[attr-defined] # its type is set above
        else:
            local_call = Call(*fields)
        local_call.chain = served.chain
        local_call.outer = waiter
        return local_call, waiter

    def _ended(self, served: Call, waiter: Call | None, ended: Callable[[], Work | None], local_call: Call) -> None:
        """Answer the caller of *served*, because *local_call* has ended; free the slot before waking the caller."""
        self._local_calls.pop(served, None)
        if served.waits and waiter is not None:
            deadlock.went_on(waiter)
        if hasattr(local_call, "ended"):
            served.began, served.ended = local_call.began, local_call.ended
        wanted = served.claim_outcome()
        following = ended()
        if wanted:
            served.publish(local_call.result_now(), local_call.exception_now())
        self._run_following(following)

    def _run_following(self, following: Work | None) -> None:
        if following is not None:
            self.put(following)

    def caller_waits(self, call: Call) -> None:
        """As `CallServer.caller_waits`: now the method that runs for `waiter` waits too, possibly forever."""
        call.waits = True  # first: if the call was not passed on yet, `_pass_on` checks this
        local_call, waiter = self._local_calls.get(call, (None, None))
        if local_call is not None and waiter is not None:
            deadlock.guard(local_call, waiter)
            if local_call.over():
                deadlock.went_on(waiter)

    def cancel(self, call: Call) -> None:
        """Let the router give up the call that runs for *call*. An unread stream ends as in this process."""
        local_call, _ = self._local_calls.get(call, (None, None))
        if local_call is None:  # it is over, or was not passed on yet
            return
        outcome = report_of(call).outcome
        if outcome is None and isinstance(local_call, StreamCall):
            local_call.stop_producing()
        elif outcome is not None:
            local_call.give_up(
                local_call.timeout_error() if outcome == Outcome.TIMEOUT else local_call.cancelled_error(), outcome
            )

    def count(self, method: int, outcome: int, wait_s: float, run_s: float) -> None:
        """Do nothing: the router counts its calls."""

    def count_unread(self, call: Call) -> None:
        """Let the router count the call."""
        local_call, _ = self._make_local_call(call)
        local_call.began = local_call.ended = self.clock.monotonic()
        self._router.count_failed(local_call)


def _expire(local_call: Call) -> None:
    local_call.expire()
