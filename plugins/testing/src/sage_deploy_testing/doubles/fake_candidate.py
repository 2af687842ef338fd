"""A replica as balancers see it, whose load a test sets."""

from __future__ import annotations

import attrs

__all__ = ["FakeCandidate", "candidates"]


@attrs.define(eq=False)
class FakeCandidate:
    """
    An `interfaces.Candidate` that is what a test says.

    Attributes:
        id: Such as `"kv#0"`.
        index: Position among the service's replicas.
        node: Name of the node, or None.
        slots: Calls at once, at most.
        inflight: Calls that hold a slot.
        waiting: Calls that wait for it.
    """

    id: str
    index: int
    node: str | None = None
    slots: int = 1
    inflight: int = 0
    waiting: int = 0


def candidates(number: int, service: str = "kv", *, slots: int = 1) -> tuple[FakeCandidate, ...]:
    """The idle replicas of a service, by index."""
    return tuple(FakeCandidate(f"{service}#{index}", index, slots=slots) for index in range(number))
