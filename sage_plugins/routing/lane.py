"""
A replica as the router sees it: its slots as tokens, and the calls that wait for them.

What is done with the tokens, and in which order, is said in `router`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call
    from sage_plugins.interfaces import Replica, Work

__all__ = ["Lane", "remove"]


class Lane:
    """The router's side of one replica; to a balancer, a `Candidate`."""

    __slots__ = (
        "abandoned",
        "address",
        "backlog",
        "cancel",
        "counts",
        "dead",
        "follow",
        "free",
        "id",
        "index",
        "methods",
        "node",
        "run_here",
        "send",
        "seniority",
        "slots",
        "withdrawn",
    )

    def __init__(self, id: str, index: int, backlog: deque[Call], seniority: int = 0) -> None:
        self.id = id
        self.index = index
        self.seniority = seniority  # where one serves and the others stand by, lower ones come first
        self.backlog: deque[Call] | tuple[()] = backlog  # where its calls wait; () once it is closed
        self.node: str | None = None
        self.address: Any = None  # by which other processes reach the replica; None if they cannot
        self.slots = 0
        self.free: list[None] = []  # one token for each free slot
        self.withdrawn = (
            0  # tokens taken back for good, because the lane or the service closes; guarded by Router._lock
        )
        self.abandoned = 0  # calls given up by their callers that still run; guarded by Router._lock
        self.dead = False  # whether the replica died with whatever it ran; guarded by Router._lock
        self.methods: Any = None  # a `method_router.LaneMethods`, if the service has methods with limits
        self.send: Callable[[Work], None]
        self.run_here: Callable[[Call], None] | None = None
        self.cancel: Callable[[Call], None]
        self.counts: Callable[[Call, int, float], bool] | None = None
        self.follow: Callable[[Call | None], Call | None]

    def attach(self, replica: Replica) -> None:
        """Learn how to reach the replica; before the lane is opened."""
        self.node = replica.node
        self.slots = replica.slots
        self.send = replica.send
        self.run_here = replica.run_here
        self.cancel = replica.cancel
        self.counts = getattr(replica, "counts", None)
        self.address = getattr(replica, "address", None)

    def freed(self, ended: Call | None) -> None:
        """The slot of *ended* is free again, or with None its token was taken: the oldest waiting call gets it."""
        call = self.follow(ended)
        if call is not None:
            self.send(call)

    @property
    def inflight(self) -> int:
        """Calls that hold a slot; may lag by a call."""
        return self.slots - len(self.free) - self.withdrawn

    @property
    def waiting(self) -> int:
        """Calls in the backlog from which this lane takes; may lag by a call."""
        return len(self.backlog)

    def take_free(self) -> None:
        """Take the free slots back for good; under Router._lock."""
        while self.free:
            try:
                self.free.pop()
            except IndexError:
                return
            self.withdrawn += 1

    def give_back(self) -> None:
        """Give out the slots again that were taken back; under Router._lock."""
        withdrawn, self.withdrawn = self.withdrawn, 0
        self.free.extend([None] * withdrawn)

    def __repr__(self) -> str:
        """Id and slots taken."""
        return f"<Lane {self.id} {self.inflight}/{self.slots}>"


def remove(calls: deque[Call] | tuple[()], call: Call) -> bool:
    """Take *call* out of *calls*; True for exactly one caller. One step of the interpreter, at some 20 ns an entry."""
    if not isinstance(calls, deque):
        return False
    try:
        calls.remove(call)
    except ValueError:
        return False
    return True
