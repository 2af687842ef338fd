"""Picks a random replica, or the less loaded of two random ones."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from sage_deploy_balancers.options import RandomOptions
    from sage_plugins.interfaces import Candidate

__all__ = ["PowerOfTwo", "RandomChoice"]


class RandomChoice:
    """Gives each call to a random replica, all equally likely, regardless of load."""

    binding = False

    def __init__(self, options: RandomOptions) -> None:
        self._random = Random(options.seed).random  # noqa: S311 - spreads load, protects nothing

    def picker(self, candidates: tuple[Candidate, ...]) -> Callable[[Hashable | None, str], Candidate]:
        """Return the function that picks a replica. `Random.random` is one step of the interpreter: no lock needed."""
        random, count = self._random, len(candidates)
        return lambda _key, _method: candidates[int(random() * count)]


class PowerOfTwo:
    """
    Takes two random replicas, and gives the call to the one with fewer calls in flight.

    The fullest replica is then hardly fuller than with a choice among all, but only two are compared. Callers with
    outdated counts do not all choose the same replica. Source: M. Mitzenmacher, "The Power of Two Choices in Randomized
    Load Balancing", IEEE Transactions on Parallel and Distributed Systems 12(10), 2001.
    """

    binding = False

    def __init__(self, options: RandomOptions) -> None:
        self._random = Random(options.seed).random  # noqa: S311 - spreads load, protects nothing

    def picker(self, candidates: tuple[Candidate, ...]) -> Callable[[Hashable | None, str], Candidate]:
        """Return the function that picks a replica. With equal loads it picks the first of the two random ones."""
        if len(candidates) == 1:
            (only,) = candidates
            return lambda _key, _method: only
        random, count = self._random, len(candidates)
        others = count - 1

        def pick(_key: Hashable | None, _method: str) -> Candidate:
            first = int(random() * count)
            second = int(random() * others)
            one, other = candidates[first], candidates[second + (second >= first)]
            return other if other.inflight < one.inflight else one

        return pick
