"""What guards work with: the parts of a router, and the function that receives their decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call
    from sage_plugins.call.owner import CallOwner
    from sage_plugins.clock import Clock
    from sage_plugins.routing.draining import Closing
    from sage_plugins.routing.lane import Lanes
    from sage_plugins.routing.losses import Losses
    from sage_plugins.routing.queue import Queue

__all__ = ["Parts", "RateLimitedTell", "Tell"]

#: `tell(kind, reason, replica)` reports a decision.
Tell: TypeAlias = "Callable[[str, str, str | None], None]"

#: Least number of seconds between two events of one kind.
_EVERY_S = 1.0


class Parts(NamedTuple):
    """
    The parts of a router.

    Attributes:
        service: Its name.
        clock: The router's clock.
        lanes: Its replicas.
        queue: Where its calls wait.
        closing: Tells whether waiting calls can still get a slot.
        losses: Queues calls again.
        match: Gives free slots to waiting calls.
        refused: `refused(method, reason)` for calls that are not accepted.
        send_elsewhere: Sends a call to a free slot of a replica that is not among its `tried`; False if there is none.
        rearrange: Calls a function that changes the lanes, under their lock, and composes the route again.
        reroute: Composes the route again for the same lanes.
        owner: The router, which calls `on_result` and `on_error` when its calls end.
    """

    service: str
    clock: Clock
    lanes: Lanes
    queue: Queue
    closing: Closing
    losses: Losses
    match: Callable[[], None]
    refused: Callable[[int, str], None]
    send_elsewhere: Callable[[Call], bool]
    rearrange: Callable[[Callable[[], None]], None]
    reroute: Callable[[], None]
    owner: CallOwner


class RateLimitedTell:
    """Reports frequent decisions at most once a second for each kind, with the number of those left out."""

    def __init__(self, clock: Clock, tell: Tell) -> None:
        self._clock = clock
        self._tell = tell
        self._told_at: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def __call__(self, kind: str, reason: str) -> None:
        """Report the decision *kind*, made because of *reason*; two threads at once may both report."""
        now = self._clock.monotonic()
        if now - self._told_at.get(kind, -_EVERY_S) < _EVERY_S:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return
        self._told_at[kind] = now
        more = self._left_out.pop(kind, 0)
        self._tell(kind, f"{reason}; {more} more since the last of these events" if more else reason, None)
