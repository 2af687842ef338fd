"""
Drains a service or single replicas: refuses new calls, ends waiting ones, and reports when the last call has ended.

The router asks here before it composes its route, and reports here when a slot may have got free for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_plugins.call.current import CURRENT
from sage_plugins.errors import ServiceStoppedError
from sage_plugins.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sage_plugins.call.call import Call
    from sage_plugins.routing.lane import Lane, Lanes
    from sage_plugins.routing.queue import Queue

__all__ = ["Closing", "waking"]


def waking(wait: Callable[[Call], bool], unserved: Callable[[], None]) -> Callable[[Call], bool]:
    """Return the route while no replica takes calls: *wait*, then call *unserved*, even if the call was refused."""

    def route(call: Call) -> bool:
        try:
            return wait(call)
        finally:
            unserved()

    return route


class Closing:
    """
    The draining of a service and of its lanes.

    Attributes:
        stopped: Why no call is accepted any more, as words that complete "service 'kv' ..."; None before that.
        stopped_to_outsiders: Why only calls made by services' methods are accepted, in the same form.
        unavailable: Makes the error that says why there is no replica and will be none; None while one may still come.
        ended: Whether no waiting call can get a slot any more.
        watch: Called when a slot may have got free for good; None if nothing waits for that.
    """

    def __init__(self, service: str, lanes: Lanes, queue: Queue, rebind: Callable[[], None]) -> None:
        """
        Close nothing yet.

        Args:
            service: Its name, for messages.
            lanes: Its replicas.
            queue: Where its calls wait.
            rebind: Makes the router compose its route again after other calls are refused; under the lanes' lock.
        """
        self._service = service
        self._lanes = lanes
        self._queue = queue
        self._rebind = rebind
        self.stopped: str | None = None
        self.stopped_to_outsiders: str | None = None
        self.unavailable: Callable[[], Exception] | None = None
        self.ended = False
        self.watch: Callable[[], None] | None = None
        self._retiring: tuple[tuple[Lane, Callable[[], None]], ...] = ()  # lanes, and what to call at their end

    # -- the steps to the end ----------------------------------------------------------------------------------------

    def close_to_outsiders(self, why: str, watch: Callable[[], None]) -> None:
        """
        Accept only nested calls, which service methods make, so that accepted calls can finish.

        Args:
            why: Completes "service 'kv' ..." in the errors of refused calls.
            watch: Called, from any thread, when `idle` may have become true.
        """
        with self._lanes.lock:
            self.stopped_to_outsiders = why
            self._watch_too(watch)
            self._rebind()
        self._turn_away_parked(lambda call: call.context is None or call.context.get(CURRENT) is None)

    def drain(self, why: str, on_idle: Callable[[], None]) -> None:
        """
        Accept no more calls; accepted calls go on.

        Args:
            why: Completes "service 'kv' ..." in the errors of refused calls.
            on_idle: Called, perhaps more than once and from any thread, when no accepted call waits or runs. Slots of
                abandoned calls do not count.
        """
        with self._lanes.lock:
            self.stopped = why
            self._watch_too(lambda: self._withdraw(on_idle))
            self._rebind()
        self._turn_away_parked(lambda _: True)
        self._withdraw(on_idle)

    def end(self) -> None:
        """End the calls that still wait, after `drain`. Calls that a dying replica returns later end too."""
        self.ended = True
        self._end_waiting(None)

    def give_up_replicas(self, error: Callable[[], Exception]) -> bool:
        """
        End the waiting calls and refuse new ones, each with a new *error*, because there will be no replica.

        Do nothing and return False while a lane is open. Calls are refused until a lane opens.
        """
        with self._lanes.lock:
            if self._lanes.open:
                return False
            self.unavailable = error
            self.ended = True
            self._rebind()
        self._end_waiting(error)
        return True

    def reopen(self) -> None:
        """Accept calls again, as there is a replica again; under the lanes' lock."""
        self.unavailable = None
        self.ended = self.ended and self.stopped is not None

    # -- why calls are refused ---------------------------------------------------------------------------------------

    @property
    def refuses_all(self) -> bool:
        """Whether all calls are refused, nested ones included."""
        return self.stopped is not None or self.unavailable is not None

    @property
    def refuses(self) -> bool:
        """Whether some or all calls are refused."""
        return bool(self.stopped or self.unavailable or self.stopped_to_outsiders)

    @property
    def reason(self) -> str:
        """The reason under which a refused call is counted."""
        return "no_replica" if self.stopped is None and self.unavailable is not None else "stopped"

    def refusal(self, call: Call) -> Exception:
        """Return the error for *call*, which is refused."""
        unavailable = self.unavailable
        if self.stopped is None and unavailable is not None:
            return unavailable()
        msg = (
            f"{self._service}.{call.method.name} was not run: service '{self._service}' "
            f"{self.stopped or self.stopped_to_outsiders or 'had no replica'}"
        )
        return ServiceStoppedError(msg, service=self._service, method=call.method.name)

    @staticmethod
    def only_from_services(route: Callable[[Call], bool], refuse: Callable[[Call], bool]) -> Callable[[Call], bool]:
        """Return a route that uses *route* for nested calls and *refuse* for all others."""
        return lambda call: route(call) if CURRENT.get() is not None else refuse(call)

    def turn_away(self, call: Call) -> None:
        """End a call that was not accepted yet, unless it has started."""
        if not self.refuses:  # a replica has opened meanwhile
            return
        error = call.turned_away = self.refusal(call)
        call.give_up(error, Outcome.STOPPED, only_unstarted=True)

    def _turn_away_parked(self, which: Callable[[Call], bool]) -> None:
        """Refuse the parked calls for which *which* is true: they are not accepted yet."""
        for call in list(self._queue.parked):
            if call.parked and not call.returned and which(call):
                self.turn_away(call)

    def _end_waiting(self, error: Callable[[], Exception] | None) -> None:
        """End each waiting call with a new *error*; if that is None, with the error of a refused call."""
        for backlog in self._queue.backlogs():
            for call in list(backlog):
                # If the service was stopped, that is the reason, even if it has no replica either.
                reason = self.refusal(call) if error is None or self.stopped is not None else error()
                call.give_up(reason, Outcome.STOPPED, only_unstarted=True)

    # -- when the last call has ended --------------------------------------------------------------------------------

    def tell_watch(self) -> None:
        """Report that a slot may have got free for good."""
        watch = self.watch  # read once: another thread sets it to None when the last lane has retired
        if watch is not None:
            watch()

    def _watch_too(self, watch: Callable[[], None]) -> None:
        """
        Add *watch* to the functions that are called; under the lanes' lock.

        Two threads may close a service to outsiders and drain it at the same time.
        """
        first = self.watch
        if first is None:
            self.watch = watch
            return

        def both() -> None:
            first()
            watch()

        self.watch = both

    @property
    def idle(self) -> bool:
        """Whether no call waits and only abandoned calls run."""
        with self._lanes.lock:
            lanes = (*self._lanes.open, *self._lanes.closed)
            running = any(lane.inflight > lane.abandoned for lane in lanes)
            return not (self._queue.returning or any(self._queue.backlogs()) or running)

    def _withdraw(self, on_idle: Callable[[], None]) -> None:
        """Take back free slots, so that nothing starts once the service is idle; call *on_idle* if it is."""
        with self._lanes.lock:
            lanes = self._lanes.open
            for lane in lanes:
                if not lane.backlog and not self._queue.unbound:
                    lane.take_free()
            idle = self.idle and all(lane.withdrawn + lane.abandoned >= lane.slots for lane in lanes)
        if idle:
            on_idle()

    def give_back(self) -> None:
        """While the service drains, return slots that were taken back: a call needs them. Under the lock."""
        if self.stopped is not None:
            self._lanes.give_back()

    def retire(self, lanes: Mapping[Lane, Callable[[], None]]) -> None:
        """Call each function once, when its lane, which is about to close, runs nothing but abandoned calls."""
        with self._lanes.lock:
            if not self._retiring:
                self._watch_too(self.look_at_retiring)
            self._retiring = (*self._retiring, *lanes.items())

    def look_at_retiring(self) -> None:
        """Call the functions of the retiring lanes that run nothing but abandoned calls now."""
        with self._lanes.lock:
            for lane, _ in self._retiring:
                # A caller may have chosen the lane while it was open. It must find no free slot.
                lane.take_free()
            over = [on_idle for lane, on_idle in self._retiring if _is_over(lane)]
            self._retiring = tuple(entry for entry in self._retiring if not _is_over(entry[0]))
            if not self._retiring and self.watch == self.look_at_retiring:
                self.watch = None
        for on_idle in over:
            on_idle()


def _is_over(lane: Lane) -> bool:
    """Whether all slots of a closed lane are free or held by abandoned calls; under the lanes' lock."""
    return lane.withdrawn + lane.abandoned >= lane.slots
