"""
Sends calls with equal keys to the same replica, without overloading the replica of a popular key.

The ring: D. Karger et al., "Consistent Hashing and Random Trees", STOC 1997. The bound: V. Mirrokni, M. Thorup,
M. Zadimoghaddam, "Consistent Hashing with Bounded Loads", arXiv:1608.01350, 2016.
"""

from __future__ import annotations

from array import array
from bisect import bisect
from itertools import cycle
from typing import TYPE_CHECKING

from sage_deploy_balancers.least_loaded import LOOKS
from sage_deploy_balancers.stable_hash import hash_key, positions

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from sage_deploy_balancers.options import ConsistentHashOptions
    from sage_plugins.interfaces import Candidate

__all__ = ["ConsistentHash"]


class ConsistentHash:
    """
    Gives calls with equal keys to the same replica, unless it has far more calls than the others.

    Each replica has points on a ring of 2**64 places. A key belongs to the first point at or after its own place. When
    a replica leaves, only its keys move. When one joins, keys move only to it. Places are BLAKE2b hashes of the
    replica's index, so every process and every run agrees, and a replacement gets the keys of the replica that it
    replaces.

    A call with a key waits for its replica even if others are free (`binding`). So calls that wait for a replica count
    as its load, like running ones. The limit of a replica is `load_bound` times the mean load, including the new call.
    A replica at the limit takes no other call: the call goes to the next replica on the ring. With n replicas, the mean
    is recomputed once every n / `LOOKS` (rounded up) calls that find their replica busy.

    A call without a key goes to the least loaded replica, found as in `LeastLoaded`. If that is busy, the call goes to
    the first replica that becomes free.

    Attributes:
        key_argument: Name of the argument that is the key, or None.
    """

    binding = True

    def __init__(self, options: ConsistentHashOptions) -> None:
        self.key_argument = options.key
        self._vnodes = options.vnodes
        self._bound = options.load_bound

    def picker(self, candidates: tuple[Candidate, ...]) -> Callable[[Hashable | None, str], Candidate]:
        """Return a function that picks the replica of the key, or the next one on the ring that is below its limit."""
        # Sorted by ID first, and sorting is stable: so all processes give a place with two points to the same replica.
        numbers = sorted(range(len(candidates)), key=lambda number: candidates[number].id)
        unsorted = [at for number in numbers for at in positions(f"#{candidates[number].index}", self._vnodes)]
        ring = sorted(range(len(unsorted)), key=unsorted.__getitem__)
        # An array, because a search among 100,000 separate integer objects is slowed down by memory access.
        places = array("Q", [unsorted[point] for point in ring])
        owners = [candidates[numbers[point // self._vnodes]] for point in ring]
        owners.append(owners[0])  # after its last point, the ring starts again
        bound, count = self._bound, len(candidates)
        step = -(-count // LOOKS)
        # For calls without a key. Each starts at another replica, so that equally loaded ones take turns.
        starts, twice = cycle(range(count)).__next__, candidates * 2
        counts_again, limit = cycle((True, *[False] * (step - 1))).__next__, 0.0

        def pick(key: Hashable | None, _method: str) -> Candidate:
            nonlocal limit
            if key is None:
                start = starts()
                return min(twice[start : start + count : step], key=_load)
            start = bisect(places, hash_key(key))
            owner = owners[start]
            if bound is None or not _load(owner):
                return owner
            if counts_again():
                # A replica below this limit has room for one more call.
                limit = bound * (sum(map(_load, candidates)) + 1) / count
            for point in range(start, start + len(places)):
                owner = owners[point % len(places)]
                if _load(owner) < limit:
                    return owner
            return min(candidates, key=_load)  # many calls have arrived since the mean was computed

        return pick


def _load(candidate: Candidate) -> int:
    return candidate.inflight + candidate.waiting
