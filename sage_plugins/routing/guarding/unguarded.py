"""The interface between a router and its guards, with defaults for a service without guards, which cost nothing."""

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

#: Tells the user how to get calls retried.
NO_RETRIES: Final = "Declare the method idempotent and set `failover_enabled` or `retry` to have it retried"


class Unguarded:
    """No guards: does nothing about failing calls."""

    def join(self, *parts_of_router: Any) -> None:
        """Guard the router with these `Parts`; once."""

    def guard(self, route: Callable[[Call], bool]) -> Callable[[Call], bool]:
        """Wrap *route* so that the guards note or refuse each call."""
        return route

    def follow(self, lane: Lane, follow: Follow) -> Follow:  # noqa: ARG002 - for guards
        """Wrap *follow*, which chooses the next call for a slot of *lane*, so that guards can choose it."""
        return follow

    def not_again(self, call: Call) -> str:  # noqa: ARG002 - for guards
        """As for `Losses`."""
        return NO_RETRIES

    def failed(self, call: Call, error: BaseException) -> Callable[[], None] | None:  # noqa: ARG002 - for guards
        """As `CallOwner.failed`."""
        return None

    def overdue(self, call: Call) -> None:
        """Handle *call*, which was given up at its deadline and may still run."""

    def stopped(self, call: Call) -> None:
        """Note that the method of an abandoned call has ended."""

    def end(self) -> None:
        """Stop, at the end of the router."""


UNGUARDED: Final = Unguarded()


class GuardedOwner(CallOwner):
    """The part of a router that passes a call's reports on to the guards and to `Losses`."""

    _guards: Unguarded
    _losses: Losses
    _lanes: Lanes
    _closing: Closing
    _queue: Queue
    _refused: Callable[[int, str], None]

    def takes_calls(self) -> bool:
        """Return whether a replica takes calls now."""
        return bool(self._lanes.open)

    def _rebind(self) -> None:
        raise NotImplementedError

    def _changed(self) -> None:
        raise NotImplementedError

    def _parts(self, refused: Callable[[int, str], None]) -> tuple[Any, ...]:
        parts = (self.service, self.clock, self._lanes, self._queue, self._closing, self._losses)
        return (*parts, self._match, refused, self._send_elsewhere, self._rearrange, self._reroute, self)

    def _match(self) -> None:
        raise NotImplementedError

    def _send_elsewhere(self, call: Call) -> bool:
        raise NotImplementedError

    def _compose_route(self) -> None:
        raise NotImplementedError

    def _turn_away(self, call: Call, error: BaseException) -> bool:
        """Refuse *call*: count it and raise *error*. If its waiting task has given it up, only return False."""
        if call.claim_outcome():
            call.turned_away = error
            self._refused(call.method.index, "overloaded")
            raise error
        return False

    def _reroute(self) -> None:
        """Compose the route again for the same lanes."""
        with self._lanes.lock:
            self._compose_route()

    def _rearrange(self, change: Callable[[], None]) -> None:
        with self._lanes.lock:
            change()
            self._rebind()
            self._closing.give_back()
        self._changed()

    def avoid(self, lane: Lane, *, avoided: bool) -> None:
        """Send calls to *lane* only while no other is open, or end that. Its running calls go on."""
        lanes, one = self._lanes, {lane}
        self._rearrange(lambda: setattr(lanes, "avoided", lanes.avoided | one if avoided else lanes.avoided - one))

    def failed(self, call: Call, error: BaseException) -> Callable[[], None] | None:
        """As `CallOwner.failed`."""
        return self._guards.failed(call, error)

    def count_failed(self, call: Call) -> None:
        """As `CallOwner.count_failed`."""
        self._losses.count_failed(call)
