"""Makes the calls of a simulation, and counts how each ends."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from sage_deploy_testing.load_simulation.replica import watch
from sage_plugins.call.call import Call
from sage_plugins.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sage_deploy_testing.load_simulation.results.tally import Tally
    from sage_deploy_testing.load_simulation.timeline import Timeline
    from sage_deploy_testing.load_simulation.waiting import Waiting
    from sage_plugins.routing.router import Router
    from sage_plugins.values import CallOptions, MethodPlan

__all__ = ["CallSource", "call_class"]


def call_class(tally: Tally) -> type[Call]:
    """Return a class of calls that report to *tally* how they end."""
    publish, ended = Call.publish, tally.ended

    class SimulatedCall(Call):
        """One call. `publish` sees its end, whatever ends it."""

        __slots__ = ("number",)

        number: int

        def publish(self, result: Any, error: BaseException | None = None) -> None:
            """Publish the outcome, and count it."""
            publish(self, result, error)
            ended(self, error)

    return SimulatedCall


class CallSource:
    """Makes the calls of one load, in turn."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a call is made of
        self,
        timeline: Timeline,
        router: Router,
        tally: Tally,
        plan: MethodPlan,
        queue_timeout: float | None,
        arrivals: Iterator[float],
        options: Callable[[], CallOptions],
        kind: type[Call],
        waiting: Waiting,
    ) -> None:
        """
        Prepare the calls. None is made before `start`.

        Args:
            timeline: The clock.
            router: Gets the calls.
            tally: Counts the calls.
            plan: The method.
            queue_timeout: Seconds that a call may wait for its start. None for no limit.
            arrivals: The times of the calls.
            options: Returns the options of the next call.
            kind: The class of the calls.
            waiting: Ends calls that wait too long.
        """
        self._timeline = timeline
        self._router = router
        self._tally = tally
        self._plan = plan
        self._queue_timeout = inf if queue_timeout is None else queue_timeout
        self._next = arrivals.__next__
        self._options = options
        self._kind = kind
        self._waiting = waiting

    def start(self) -> None:
        """Schedule the first call. Each call schedules the next one."""
        try:
            at = self._next()
        except StopIteration:
            return
        self._timeline.at(at, self._come, None)

    def _come(self, _: None) -> None:
        timeline, router, plan = self._timeline, self._router, self._plan
        now = timeline.now
        deadline = now + plan.timeout
        expires = min(deadline, now + self._queue_timeout)
        call: Any = self._kind(router, plan, (), {}, self._options(), now, deadline, expires, None)
        self._tally.made(call)
        try:
            router.route(call)
        except CallError as error:
            self._tally.ended(call, error)
        else:
            if call.lane is None and not call.over():
                if call.attempts or call.returned:
                    watch(timeline, call)
                else:
                    self._waiting.add(call)
        try:
            at = self._next()
        except StopIteration:
            return
        timeline.at(at, self._come, None)
