"""What a router asks its guards, with the answers for a service that has none; they cost its calls nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sage_plugins.call.owner import CallOwner

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call
    from sage_plugins.routing.draining import Closing
    from sage_plugins.routing.lane import Lane, Lanes
    from sage_plugins.routing.losses import Losses
    from sage_plugins.routing.queue import Queue

__all__ = ["NO_RETRIES", "UNGUARDED", "Follow", "GuardedOwner", "Unguarded"]

#: As `interfaces.SlotEvents.follow`.
Follow: TypeAlias = "Callable[[Any], Call | None]"

#: What to do so that a call is tried again.
NO_RETRIES: Final = "Declare the method idempotent and set `failover_enabled` or `retry` to have it retried"


class Unguarded:
    """Nothing is done about calls that fail."""

    def join(self, *parts_of_router: Any) -> None:
        """Guard the router with these `Parts`; once."""

    def guard(self, route: Callable[[Call], bool]) -> Callable[[Call], bool]:
        """*route*, which accepts calls, with what has to be known or refused of each call."""
        return route

    def follow(self, lane: Lane, follow: Follow) -> Follow:  # noqa: ARG002 - for guards
        """*follow*, which *lane* asks for what gets a slot of its, with what the guards have for it."""
        return follow

    def not_again(self, call: Call) -> str:  # noqa: ARG002 - for guards
        """As for `Losses`."""
        return NO_RETRIES

    def failed(self, call: Call, error: BaseException) -> Callable[[], None] | None:  # noqa: ARG002 - for guards
        """As `CallOwner.failed`."""
        return None

    def overdue(self, call: Call) -> None:
        """The time of *call* is over, and it may run; told after it was given up."""

    def stopped(self, call: Call) -> None:
        """What ran of a call that was given up has ended."""

    def end(self) -> None:
        """The router has come to its end."""


UNGUARDED: Final = Unguarded()


class GuardedOwner(CallOwner):
    """What a call asks of a router that its guards or its `Losses` answer."""

    _guards: Unguarded
    _losses: Losses
    _lanes: Lanes
    _closing: Closing
    _queue: Queue
    _refused: Callable[[int, str], None]

    def _rebind(self) -> None:
        raise NotImplementedError

    def _changed(self) -> None:
        raise NotImplementedError

    def _parts(self, refused: Callable[[int, str], None]) -> tuple[Any, ...]:
        """What `Parts` consists of."""
        parts = (self.service, self.clock, self._lanes, self._queue, self._closing, self._losses)
        return (*parts, self._match, refused, self._send_elsewhere, self._rearrange, self._reroute, self)

    def _match(self) -> None:
        raise NotImplementedError

    def _send_elsewhere(self, call: Call) -> bool:
        raise NotImplementedError

    def _compose_route(self) -> None:
        raise NotImplementedError

    def _turn_away(self, call: Call, error: BaseException) -> bool:
        """Raise *error*, and count that; not if the task that waits for *call* has given it up: that counts alone."""
        if call.claim_outcome():
            call.turned_away = error
            self._refused(call.method.index, "overloaded")
            raise error
        return False

    def _reroute(self) -> None:
        """Have calls find their way anew among the same lanes."""
        with self._lanes.lock:
            self._compose_route()

    def _rearrange(self, change: Callable[[], None]) -> None:
        """Have *change* change the lanes, and calls find their way anew."""
        with self._lanes.lock:
            change()
            self._rebind()
            self._closing.give_back()
        self._changed()

    def avoid(self, lane: Lane, *, avoided: bool) -> None:
        """Send calls to *lane* only while no other is open, or again like to any other; the calls it has go on."""
        lanes, one = self._lanes, {lane}
        self._rearrange(lambda: setattr(lanes, "avoided", lanes.avoided | one if avoided else lanes.avoided - one))

    def failed(self, call: Call, error: BaseException) -> Callable[[], None] | None:
        """As `CallOwner.failed`."""
        return self._guards.failed(call, error)

    def count_failed(self, call: Call) -> None:
        """As `CallOwner.count_failed`."""
        self._losses.count_failed(call)
