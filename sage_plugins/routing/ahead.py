"""
Idempotent calls that were sent ahead to one slot of a replica in another process, where they run one after the other.

`docs/design/bundles.md` says why. The slot is that of the first; the others came out of the queue and hold none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sage_plugins.call.call import Call

__all__ = ["Bundle"]


class Bundle:
    """
    What the router knows of the calls that share a slot; guarded by its lock.

    Attributes:
        lane: Where they run.
        calls: Those in it, answered ones included.
        abandoned: How many of them were given up since they were sent and may still run.
        forsaken: Whether it counts among the lane's slots that are held by nothing but abandoned calls.
    """

    __slots__ = ("abandoned", "calls", "forsaken", "lane")

    def __init__(self, lane: Any, calls: Iterable[Call]) -> None:
        """Make a bundle of *calls*, of which none has been answered, for *lane*."""
        self.lane = lane
        self.calls = set(calls)
        self.abandoned = 0
        self.forsaken = False
        for call in self.calls:
            call.bundle = self

    def leave(self, call: Call) -> None:
        """*call* is on its own again."""
        self.calls.discard(call)
        call.bundle = None

    def is_forsaken(self) -> bool:
        """Whether its slot is held by nothing but abandoned calls."""
        return self.abandoned > 0 and all(call.settled() for call in self.calls)
