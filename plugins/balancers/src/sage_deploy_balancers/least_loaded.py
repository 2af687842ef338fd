"""The replica with the fewest calls."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from sage_plugins.interfaces import Candidate

__all__ = ["LeastLoaded"]


class LeastLoaded:
    """
    Gives each call to the replica with the fewest calls in flight.

    Among equals it takes turns, so that a lone caller warms all replicas. Counts are read without a lock and may lag by
    a call: right in one process, where the counts are the router's own.
    """

    binding = False

    def picker(self, candidates: tuple[Candidate, ...]) -> Callable[[Hashable | None, str], Candidate]:
        """The least loaded one, looking at them from another start each time."""
        # Taking the next start is one step of the interpreter, so threads need no lock.
        count, twice = len(candidates), candidates * 2
        starts = cycle(range(count)).__next__

        def pick(_key: Hashable | None, _method: str) -> Candidate:
            start = starts()
            best = candidates[start]
            fewest = best.inflight
            if fewest:
                for candidate in twice[start + 1 : start + count]:
                    load = candidate.inflight
                    if load < fewest:
                        best, fewest = candidate, load
                        if not load:
                            break
            return best

        return pick
