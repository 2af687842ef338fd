"""The load balancer `rendezvous`: each key has an order of preference among the replicas, and goes to the first."""

from __future__ import annotations

from hashlib import blake2b
from itertools import cycle
from typing import TYPE_CHECKING

import attrs

from sage_plugins import errors, hookimpl
from sage_plugins.values import Registration

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from sage_plugins.interfaces import Candidate
    from sage_plugins.values import Where


@attrs.frozen
class RendezvousOptions:
    """
    Options of `rendezvous`.

    Attributes:
        argument: Name of the methods' argument that is the key.
    """

    argument: str | None = None


class Rendezvous:
    """
    The replica with the highest score for the key: D. Thaler, C. Ravishankar, "Using name-based mappings to increase
    hit rates", IEEE/ACM Transactions on Networking 6(1), 1998. Calls without a key go to the least loaded.
    """

    binding = True

    def __init__(self, options: RendezvousOptions, _where: Where) -> None:
        self.key_argument = options.argument

    def picker(self, candidates: tuple[Candidate, ...]) -> Callable[[Hashable | None, str], Candidate]:
        """Scores every replica for each call, which is quick for the few that a service has."""
        orders = cycle([candidates[start:] + candidates[:start] for start in range(len(candidates))]).__next__

        def pick(key: Hashable | None, _method: str) -> Candidate:
            if key is None:
                return min(orders(), key=lambda each: each.inflight + each.waiting)
            if not isinstance(key, (str, int)):
                raise errors.InvalidKeyError(f"rendezvous places strings and integers only, got {type(key).__name__}")
            name = f"{key!r}".encode("utf-8", "backslashreplace")
            return max(candidates, key=lambda each: blake2b(name, key=each.id.encode()[:64], digest_size=8).digest())

        return pick


@hookimpl
def sage_register_load_balancers() -> list[Registration]:
    """Offer `rendezvous`."""
    return [
        Registration(
            "rendezvous",
            Rendezvous,
            "each key goes to the replica that it prefers",
            options=RendezvousOptions,
            capabilities=frozenset({"spreads", "avoids_load", "binds_keys", "names_key"}),
        ),
    ]
