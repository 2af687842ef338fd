"""Picks the replica with the fewest calls."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from sage_plugins.interfaces import Candidate

__all__ = ["LOOKS", "LeastLoaded"]

#: Maximum number of replicas compared for each call, so that its cost does not grow with their number. Even two random
#: ones keep the fullest replica from getting much fuller than the others; see `PowerOfTwo`.
LOOKS: Final = 64


class LeastLoaded:
    """
    Gives each call to the replica with the fewest calls in flight.

    Of more than `LOOKS` replicas, it compares only that many: evenly spaced, and different ones each time. It takes the
    first one at once if that is idle.

    Replicas with equal load take turns, so that a single caller warms all of them. Counts are read without a lock and
    may lag by a call. In one process they are the router's own counts.
    """

    binding = False

    def picker(self, candidates: tuple[Candidate, ...]) -> Callable[[Hashable | None, str], Candidate]:
        """Return the function that picks a replica. Each call starts its comparison at another replica."""
        # Advancing the iterator is one step of the interpreter, so it needs no lock.
        count, twice = len(candidates), candidates * 2
        step = -(-count // LOOKS)
        starts = cycle(range(count)).__next__

        def pick(_key: Hashable | None, _method: str) -> Candidate:
            start = starts()
            best = candidates[start]
            fewest = best.inflight
            if fewest:
                for candidate in twice[start + step : start + count : step]:
                    load = candidate.inflight
                    if load < fewest:
                        best, fewest = candidate, load
                        if not load:
                            break
            return best

        return pick
