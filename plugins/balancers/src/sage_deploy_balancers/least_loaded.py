"""The replica with the fewest calls."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from sage_plugins.interfaces import Candidate

__all__ = ["LOOKS", "LeastLoaded"]

#: Replicas that a choice compares at most: else it would take longer the more there are. Two by chance already keep the
#: fullest one from being much fuller than the others; see `PowerOfTwo`.
LOOKS: Final = 64


class LeastLoaded:
    """
    Gives each call to the replica with the fewest calls in flight.

    Of more than `LOOKS` replicas it compares so many, evenly spaced and each time others, unless the first is idle.

    Among equals it takes turns, so that a lone caller warms all replicas. Counts are read without a lock and may lag by
    a call: right in one process, where the counts are the router's own.
    """

    binding = False

    def picker(self, candidates: tuple[Candidate, ...]) -> Callable[[Hashable | None, str], Candidate]:
        """The least loaded one, looking at them from another start each time."""
        # Taking the next start is one step of the interpreter, so threads need no lock.
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
