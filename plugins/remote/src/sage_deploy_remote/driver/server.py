"""Takes calls of other processes for a service of this process, and passes them to its router."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from sage_deploy_remote.link.outstanding import sent_as
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
    Serves callers in other processes in place of replicas. All methods may be called from any thread.

    For each of their calls, it makes a second call for the service's router, which queues it with all others, runs it
    and counts it. The two calls share their times, the channel of a stream, and the chain of waiting calls. So a
    deadlock that leads through this process is detected.
    """

    def __init__(self, service: ReachableService, id: str) -> None:
        """
        Take the calls of *service*, as it is composed now.

        Args:
            service: The service.
            id: Takes the place of a replica's ID in errors.
        """
        composition = service.composition
        super().__init__(composition.name, id, None, composition.methods, service.clock)
        self._router = service.router
        self._queue_timeout: float | None = composition.config.queue_timeout
        self._runs_here = "in_callers_thread" in composition.strategy.registration.capabilities
        #: For each call: the call that runs for it, and the call that may wait for it. Changed by single operations.
        self._made: dict[Call, tuple[Call, Call | None]] = {}

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
            self._go_on(ended())
            return
        made, waiter = self._again(served)
        self._made[served] = made, waiter
        made.on_over(partial(self._ended, served, waiter, ended))
        assert made.context is not None  # noqa: S101 - for the type checker: the call is not shared yet
        context = made.context.copy()  # a worker that runs the call enters the original, maybe now
        if self._runs_here:
            CALLBACKS.run(partial(context.run, run_here, made, self._router))
        else:
            context.run(self._route, made)
        if served.waits:
            self.waited_for(served)
        if made.expires < made.deadline and made.unstarted():  # its caller checks only the deadline
            self.clock.call_at(made.expires, partial(_expire, made))
        if served.settled():  # its caller gave it up before there was anything to cancel
            self.cancel(served)

    def _route(self, made: Call) -> None:
        try:
            self._router.route(made)
        except BaseException as error:  # noqa: BLE001 - the router refused the call, and its caller must know
            if made.turned_away is error:
                made.publish(None, error)
            else:
                made.refuse(error)

    def _again(self, served: Call) -> tuple[Call, Call | None]:
        """
        Return the call that runs for *served*, and the call of this process that waits for it, or None.

        The waiting call was sent to the process in which *served* was made, or to one before it in the chain.
        """
        waiter = next(filter(None, map(sent_as, reversed(served.chain[:-1]))), None)
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
            made: Call = StreamCall(*fields, item_timeout=inf)
            made.channel = served.channel  # type: ignore[attr-defined] # made above
        else:
            made = Call(*fields)
        made.chain = served.chain
        made.outer = waiter
        return made, waiter

    def _ended(self, served: Call, waiter: Call | None, ended: Callable[[], Work | None], made: Call) -> None:
        """Answer the caller of *served*, because *made* has ended; free the slot before waking the caller."""
        self._made.pop(served, None)
        if served.waits and waiter is not None:
            deadlock.went_on(waiter)
        if hasattr(made, "ended"):
            served.began, served.ended = made.began, made.ended
        wanted = served.claim_outcome()
        following = ended()
        if wanted:
            served.publish(made.result_now(), made.exception_now())
        self._go_on(following)

    def _go_on(self, following: Work | None) -> None:
        if following is not None:
            self.put(following)

    def waited_for(self, call: Call) -> None:
        """As `CallServer.waited_for`: now the method that runs for `waiter` waits too, possibly for ever."""
        call.waits = True  # first: if the call was not passed on yet, `_pass_on` checks this
        made, waiter = self._made.get(call, (None, None))
        if made is not None and waiter is not None:
            deadlock.guard(made, waiter)
            if made.over():
                deadlock.went_on(waiter)

    def cancel(self, call: Call) -> None:
        """Let the router give up the call that runs for *call*. An unread stream ends as in this process."""
        made, _ = self._made.get(call, (None, None))
        if made is None:  # it is over, or was not passed on yet
            return
        outcome = report_of(call).outcome
        if outcome is None and isinstance(made, StreamCall):
            made.stop_producing()
        elif outcome is not None:
            made.give_up(made.timeout_error() if outcome == Outcome.TIMEOUT else made.cancelled_error(), outcome)

    def count(self, method: int, outcome: int, wait_s: float, run_s: float) -> None:
        """Do nothing: the router counts its calls."""

    def count_unread(self, call: Call) -> None:
        """Let the router count the call."""
        made, _ = self._again(call)
        made.began = made.ended = self.clock.monotonic()
        self._router.count_failed(made)


def _expire(made: Call) -> None:
    made.expire()
