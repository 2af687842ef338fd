"""
A service as its reach sees it, and the reach of one that only this process calls.

The reach of other services comes with the targets that other processes can use; see `interfaces.Reach`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sage_plugins.clock import Clock
    from sage_plugins.deployment.balancing import Balancing
    from sage_plugins.deployment.replicas.replica_set import ReplicaSet
    from sage_plugins.interfaces import EarlierReplica, EarlierService, Replica, ReplicaEvents
    from sage_plugins.planning.composition import Composition
    from sage_plugins.service.call_key import KeyOf
    from sage_plugins.values import Choice, ReplicaSpec

__all__ = ["OwnProcessOnly", "Reachable"]


class OwnProcessOnly:
    """The `interfaces.Reach` of a service that ends with this process: nothing is told, nothing is taken over."""

    @property
    def find_service(self) -> None:
        """The replicas ask in this process."""

    @property
    def outlives(self) -> bool:
        """The replicas end with this process."""
        return False

    def announce(self, after: int = 0) -> None:
        """Nobody is told."""

    def ready(self) -> None:
        """Nobody is told."""

    def changed(self) -> None:
        """Nobody is told."""

    def stopping(self) -> None:
        """Nobody is told."""

    def stopped(self) -> None:
        """Nobody is told."""

    def leave(self) -> None:
        """Nobody is told."""

    def wait_seen(self) -> None:
        """Nobody is waited for."""

    def waiting_elsewhere(self) -> int:
        """No other process calls it."""
        return 0

    def wait_found(self) -> None:
        """Nobody is waited for."""

    def vacate(self, replicas: Sequence[Replica], limit: float) -> None:
        """The replicas have calls of this process only."""

    def take_over(self) -> EarlierService | None:
        """Nothing outlives a process."""

    def adopt(self, earlier: EarlierReplica, spec: ReplicaSpec, events: ReplicaEvents, clock: Clock) -> Replica:  # noqa: ARG002
        """
        There is none.

        Raises:
            DeployError: Always.
        """
        msg = f"replica {spec.id} ended with the process that started it"
        raise DeployError(msg, service=spec.service, replica=spec.id)

    def handle_parts(self) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
        """A handle is of no use in another process."""


class Reachable:
    """
    A service as its reach sees it: `interfaces.ReachableService`.

    Attributes:
        router: Knows which replicas take calls.
        clock: Its time.
    """

    def __init__(self, replicas: ReplicaSet, balancing: Balancing) -> None:
        """Show the service of *replicas*."""
        self.router = replicas.router
        self.clock = replicas.clock
        self._replicas = replicas
        self._balancing = balancing

    @property
    def composition(self) -> Composition:
        """What was decided for it."""
        return self._replicas.composition

    @property
    def balancer(self) -> Choice | None:
        """Who chooses among its replicas now."""
        return self._balancing.choice

    @property
    def key_of(self) -> KeyOf | None:
        """The key of a call by its arguments."""
        return self._balancing.key_of

    @property
    def places(self) -> int:
        """How many replicas it should have now."""
        return len(self._replicas.places)

    @property
    def sleeps(self) -> bool:
        """Whether it has no replica because there was nothing to do."""
        elastic = self._replicas.elastic
        return elastic is not None and elastic.asleep

    def wake(self) -> None:
        """Have a replica start, because another process calls it; never blocks."""
        elastic = self._replicas.elastic
        if elastic is not None:
            elastic.look_soon(from_elsewhere=True)
