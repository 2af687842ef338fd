"""The load balancer `example_plugin`: compares a few replicas and picks the one with the fewest calls."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import attrs

from sage_plugins import hookimpl
from sage_plugins.values import Registration

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from sage_plugins.interfaces import Candidate
    from sage_plugins.values import Where


@attrs.frozen
class ExamplePluginOptions:
    """
    Options of `example_plugin`.

    Attributes:
        compare: Replicas compared for each call.
    """

    compare: int = attrs.field(default=16, validator=attrs.validators.ge(1))


class ExamplePlugin:
    """Picks the replica with the fewest calls. Replicas with equally few calls take turns."""

    binding = False  # True: a call with a key waits for its replica, even if other replicas are free

    def __init__(self, options: ExamplePluginOptions, _where: Where) -> None:
        self._compare = options.compare

    def picker(self, candidates: tuple[Candidate, ...]) -> Callable[[Hashable | None, str], Candidate]:
        """Return the function that picks a replica for each call. It must be fast and safe from any thread."""
        number = len(candidates)
        compared = range(min(self._compare, number))
        turns = count()

        def pick(_key: Hashable | None, _method: str) -> Candidate:
            first = next(turns)
            window = [candidates[(first + each) % number] for each in compared]
            return min(window, key=lambda each: each.inflight + each.waiting)

        return pick


@hookimpl
def sage_register_load_balancers() -> list[Registration]:
    """Offer the balancer."""
    return [
        Registration(
            "example_plugin",
            ExamplePlugin,
            "The replica with the fewest calls",
            options=ExamplePluginOptions,
            capabilities=frozenset({"spreads", "avoids_load"}),
        )
    ]
