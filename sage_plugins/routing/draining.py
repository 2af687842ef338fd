"""
Why a service accepts no more calls, what becomes of those that wait, and when the last one has ended.

The router asks here before it composes its way, and tells here whenever a slot may have got free for good.
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
    """The way of a call while no replica takes calls: *wait*, and *unserved* is told, also if it is refused."""

    def route(call: Call) -> bool:
        try:
            return wait(call)
        finally:
            unserved()

    return route


class Closing:
    """
    How far a service, or one of its lanes, is on its way to the end.

    Attributes:
        stopped: Why no call is accepted any more, as words that complete "service 'kv' ..."; None before that.
        stopped_to_outsiders: Why only calls made by services' methods are accepted, likewise.
        unavailable: Makes the error that says why there is no replica and will be none; None while there is hope.
        ended: Whether no waiting call has a chance any more.
        watch: Told whenever a slot may have got free for good; None if nobody waits for that.
    """

    def __init__(self, service: str, lanes: Lanes, queue: Queue, rebind: Callable[[], None]) -> None:
        """
        Close nothing yet.

        Args:
            service: Name of the service, for messages.
            lanes: Its replicas.
            queue: Where its calls wait.
            rebind: Has the router compose its way anew, for what is refused has changed; under the lanes' lock.
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
        self._retiring: tuple[tuple[Lane, Callable[[], None]], ...] = ()  # closed lanes, and who waits for their end

    # -- the steps to the end ----------------------------------------------------------------------------------------

    def close_to_outsiders(self, why: str, watch: Callable[[], None]) -> None:
        """
        Accept only calls made by a service's method while it answers one, so that accepted calls can finish.

        Args:
            why: Completes "service 'kv' ..." in the errors of the calls refused.
            watch: Told, from any thread, when `idle` may have become true.
        """
        with self._lanes.lock:
            self.stopped_to_outsiders = why
            self._watch_too(watch)
            self._rebind()
        self._turn_away_parked(lambda call: call.context is None or call.context.get(CURRENT) is None)

    def drain(self, why: str, on_idle: Callable[[], None]) -> None:
        """
        Accept no more calls; those accepted go on.

        Args:
            why: Completes "service 'kv' ..." in the errors of the calls refused.
            on_idle: Called, perhaps more than once and from any thread, when no accepted call waits or runs. Slots of
                calls that were abandoned do not count.
        """
        with self._lanes.lock:
            self.stopped = why
            self._watch_too(lambda: self._withdraw(on_idle))
            self._rebind()
        self._turn_away_parked(lambda _: True)
        self._withdraw(on_idle)

    def end(self) -> None:
        """End the calls that still wait, after `drain`; those that a dying replica returns from now on end too."""
        self.ended = True
        self._end_waiting(None)

    def give_up_replicas(self, error: Callable[[], Exception]) -> bool:
        """
        There will be no replica: end the waiting calls with a new *error* each, and refuse others so.

        Does nothing, and gives False, while one is open. It lasts until one is opened.
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
        """There is a replica again; under the lanes' lock."""
        self.unavailable = None
        self.ended = self.ended and self.stopped is not None

    # -- why calls are refused ---------------------------------------------------------------------------------------

    @property
    def refuses_all(self) -> bool:
        """Whether no call is accepted, whoever makes it."""
        return self.stopped is not None or self.unavailable is not None

    @property
    def refuses(self) -> bool:
        """Whether there is a reason to refuse calls."""
        return bool(self.stopped or self.unavailable or self.stopped_to_outsiders)

    @property
    def reason(self) -> str:
        """Why a call is refused, as it is counted."""
        return "no_replica" if self.stopped is None and self.unavailable is not None else "stopped"

    def refusal(self, call: Call) -> Exception:
        """The error for *call*, which is refused."""
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
        """*route* for calls that a service's method makes, *refuse* for all others."""
        return lambda call: route(call) if CURRENT.get() is not None else refuse(call)

    def turn_away(self, call: Call) -> None:
        """End a call whose caller is still waiting to hear that it was accepted, unless it has started."""
        if not self.refuses:  # a replica has come meanwhile
            return
        error = call.turned_away = self.refusal(call)
        call.give_up(error, Outcome.STOPPED, only_unstarted=True)

    def _turn_away_parked(self, which: Callable[[Call], bool]) -> None:
        """Refuse parked calls: they were not accepted, their callers are still waiting for that."""
        for call in list(self._queue.parked):
            if call.parked and not call.returned and which(call):
                self.turn_away(call)

    def _end_waiting(self, error: Callable[[], Exception] | None) -> None:
        """End the waiting calls with a new *error* each; None for the reason why calls are refused."""
        for backlog in self._queue.backlogs():
            for call in list(backlog):
                # A service that is stopped says that, whatever has become of its replicas.
                reason = self.refusal(call) if error is None or self.stopped is not None else error()
                call.give_up(reason, Outcome.STOPPED, only_unstarted=True)

    # -- when the rest has ended -------------------------------------------------------------------------------------

    def tell_watch(self) -> None:
        """A slot may have got free for good."""
        watch = self.watch  # looked at once: it goes when the last lane has retired
        if watch is not None:
            watch()

    def _watch_too(self, watch: Callable[[], None]) -> None:
        """
        Tell *watch* as well as whoever is told already; under the lanes' lock.

        A service may be closed to outsiders and drained at the same time, by two threads.
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
        """Whether no call waits, and none runs but abandoned ones."""
        with self._lanes.lock:
            lanes = (*self._lanes.open, *self._lanes.closed)
            running = any(lane.inflight > lane.abandoned for lane in lanes)
            return not (self._queue.returning or any(self._queue.backlogs()) or running)

    def _withdraw(self, on_idle: Callable[[], None]) -> None:
        """Take free slots back for good, so that nothing starts once the service is idle; tell if it is."""
        with self._lanes.lock:
            lanes = self._lanes.open
            for lane in lanes:
                if not lane.backlog and not self._queue.unbound:
                    lane.take_free()
            idle = self.idle and all(lane.withdrawn + lane.abandoned >= lane.slots for lane in lanes)
        if idle:
            on_idle()

    def give_back(self) -> None:
        """While the service drains: slots that were taken back because it was idle are needed again. Under the lock."""
        if self.stopped is not None:
            self._lanes.give_back()

    def retire(self, lanes: Mapping[Lane, Callable[[], None]]) -> None:
        """Tell once, for each of *lanes*, which are about to be closed, when it runs nothing but abandoned calls."""
        with self._lanes.lock:
            if not self._retiring:
                self._watch_too(self.look_at_retiring)
            self._retiring = (*self._retiring, *lanes.items())

    def look_at_retiring(self) -> None:
        """Tell of the lanes that have come to their end."""
        with self._lanes.lock:
            for lane, _ in self._retiring:
                # A caller who chose the lane while it was open, and was held up since, must not find a slot.
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
