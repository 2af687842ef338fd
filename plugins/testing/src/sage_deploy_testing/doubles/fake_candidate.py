"""A replica as balancers see it. The test sets its load."""

from __future__ import annotations

import attrs

__all__ = ["FakeCandidate", "candidates"]


@attrs.define(eq=False)
class FakeCandidate:
    """
    An `interfaces.Candidate` whose values a test sets.

    Attributes:
        id: Its ID, for example `"kv#0"`.
        index: Position among the service's replicas.
        node: The node's name, or None.
        slots: The most calls at once.
        inflight: Number of calls that hold a slot.
        waiting: Number of calls that wait for a slot of it.
    """

    id: str
    index: int
    node: str | None = None
    slots: int = 1
    inflight: int = 0
    waiting: int = 0


def candidates(number: int, service: str = "kv", *, slots: int = 1) -> tuple[FakeCandidate, ...]:
    """Return *number* idle replicas of a service, by index."""
    return tuple(FakeCandidate(f"{service}#{index}", index, slots=slots) for index in range(number))
