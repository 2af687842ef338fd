"""
The load balancer `rendezvous`: each key ranks the replicas, and goes to the highest-ranked one.

Also the command `sage-deploy rendezvous`, which shows where keys go.
"""

from __future__ import annotations

from hashlib import blake2b
from itertools import cycle
from typing import TYPE_CHECKING, Any

import attrs

from sage_plugins import errors, hookimpl
from sage_plugins.values import Command, Registration

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


def score(key: str | int, replica_id: str) -> bytes:
    """Return a key's score for a replica. The replica with the highest score gets the key."""
    name = f"{key!r}".encode("utf-8", "backslashreplace")
    return blake2b(name, key=replica_id.encode()[:64], digest_size=8).digest()


class Rendezvous:
    """
    Chooses the replica with the highest score for the key. Calls without a key go to the least loaded replica.

    Source: D. Thaler, C. Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on
    Networking 6(1), 1998.
    """

    binding = True

    def __init__(self, options: RendezvousOptions, _where: Where) -> None:
        self.key_argument = options.argument

    def picker(self, candidates: tuple[Candidate, ...]) -> Callable[[Hashable | None, str], Candidate]:
        """Return a function that scores every replica for each call, which is fast for a few replicas."""
        orders = cycle([candidates[start:] + candidates[:start] for start in range(len(candidates))]).__next__

        def pick(key: Hashable | None, _method: str) -> Candidate:
            if key is None:
                return min(orders(), key=lambda each: each.inflight + each.waiting)
            if not isinstance(key, (str, int)):
                raise errors.InvalidKeyError(f"rendezvous places strings and integers only, got {type(key).__name__}")
            return max(candidates, key=lambda each: score(key, each.id))

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


def load_command() -> Any:
    """Make the command; click is imported only when the command is used."""
    import click

    @click.command()
    @click.argument("service")
    @click.argument("keys", nargs=-1, required=True)
    @click.option("--replicas", default=2, show_default=True, type=click.IntRange(1), help="How many replicas it has.")
    def rendezvous(service: str, keys: tuple[str, ...], replicas: int) -> None:
        """Show to which replica of SERVICE calls with KEYS go while no replica has been replaced."""
        ids = [f"{service}#{index}" for index in range(replicas)]
        for key in keys:
            click.echo(f"{key}  {max(ids, key=lambda each: score(key, each))}")

    return rendezvous


@hookimpl
def sage_register_commands() -> list[Command]:
    """Offer `sage-deploy rendezvous`."""
    return [Command("rendezvous", load_command, "Show to which replica each key goes.")]
