"""Picks each replica in turn."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from sage_plugins.interfaces import Candidate

__all__ = ["RoundRobin"]


class RoundRobin:
    """Gives calls to the replicas in the order of their index, again and again, regardless of load."""

    binding = False

    def picker(self, candidates: tuple[Candidate, ...]) -> Callable[[Hashable | None, str], Candidate]:
        """Return the function that picks the next replica. `cycle.__next__` is one interpreter step: no lock needed."""
        following = cycle(candidates).__next__
        return lambda _key, _method: following()
