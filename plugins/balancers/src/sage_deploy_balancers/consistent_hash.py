"""
Equal keys to the same replica, without letting a popular key drown it.

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
    Gives calls with equal keys to the same replica, as long as that has not far more calls than the others.

    Each replica has points on a ring of 2**64 places; a key belongs to the first point at or after its own place. So
    when a replica leaves, only its keys move, and when one joins, keys move to that one alone. Places come from
    BLAKE2b of the replica's index, so every process and every run agrees, and the replica that takes the place of
    another gets its keys.

    A call with a key waits for the replica chosen, also if another one is free: `binding`. Therefore calls that wait
    for a replica count as its load beside those that run there. A replica that has `load_bound` times the mean of all,
    the new call included and rounded up, takes no other call: the next replica on the ring does. The mean is counted
    anew for every so many calls that find their replica busy, one for each `LOOKS` replicas.

    A call without a key goes to the least loaded replica, as `LeastLoaded` finds it, and if that is busy to the first
    that gets free.

    Attributes:
        key_argument: Name of the argument that is the key, or None.
    """

    binding = True

    def __init__(self, options: ConsistentHashOptions) -> None:
        self.key_argument = options.key
        self._vnodes = options.vnodes
        self._bound = options.load_bound

    def picker(self, candidates: tuple[Candidate, ...]) -> Callable[[Hashable | None, str], Candidate]:
        """Where the call's key belongs, or the next place on the ring whose replica is not too full."""
        # By id first, and sorting keeps that order: so every process gives a place with two points to the same one.
        numbers = sorted(range(len(candidates)), key=lambda number: candidates[number].id)
        unsorted = [at for number in numbers for at in positions(f"#{candidates[number].index}", self._vnodes)]
        ring = sorted(range(len(unsorted)), key=unsorted.__getitem__)
        # An array: among a hundred thousand numbers in places of their own a search waits for the memory.
        places = array("Q", [unsorted[point] for point in ring])
        owners = [candidates[numbers[point // self._vnodes]] for point in ring]
        owners.append(owners[0])  # beyond the last point the ring begins anew
        bound, count = self._bound, len(candidates)
        step = -(-count // LOOKS)
        # For calls without a key: each begins to look at another one, so that equals take turns.
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
                # Below this a replica has room for one more.
                limit = bound * (sum(map(_load, candidates)) + 1) / count
            for point in range(start, start + len(places)):
                owner = owners[point % len(places)]
                if _load(owner) < limit:
                    return owner
            return min(candidates, key=_load)  # many more calls have come since the mean was counted

        return pick


def _load(candidate: Candidate) -> int:
    return candidate.inflight + candidate.waiting
