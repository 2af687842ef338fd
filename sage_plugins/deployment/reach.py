"""
The `Reach` of services whose replicas are in this process, and a service as its `Reach` sees it.

All other services get their `Reach` from their target; see `interfaces.Reach`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from sage_plugins.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from sage_plugins.clock import Clock
    from sage_plugins.deployment.balancing import Balancing
    from sage_plugins.deployment.replicas.replica_set import ReplicaSet
    from sage_plugins.interfaces import (
        EarlierReplica,
        EarlierService,
        Reach,
        ReachableService,
        Replica,
        ReplicaEvents,
    )
    from sage_plugins.planning.composition import Composition
    from sage_plugins.service.call_key import KeyOf
    from sage_plugins.values import Choice, ReplicaSpec

__all__ = ["InProcessReach", "Reachable"]


class InProcessReach:
    """
    The `interfaces.Reach` of a service whose replicas are in this process.

    The replicas end with this process, and find other services in it. Other processes find the service where they find
    other services of its environment. While there are no such services, nothing is published.
    """

    def __init__(self, service: ReachableService | None = None) -> None:
        """Publish *service* to other processes; None if no service of the environment can be in another process."""
        self._service = service
        self._lock = threading.RLock()  # re-entrant because a signal handler may stop the service meanwhile
        self._reaches: dict[Hashable, Reach] = {}  # by place; guarded by _lock, as the next three
        self._announced = False
        self._ready = False
        self._has_stopped = False

    def join(self, other: Reach) -> None:
        """As `Reach.join`."""
        if self._service is None:
            return
        place = other.place
        with self._lock:
            if self._has_stopped:
                return
            reach = self._reaches.get(place) or other.beside(self._service, self._all_reaches)
            if reach is None:
                return
            self._reaches[place] = reach
            if self._announced:
                reach.announce()
            if self._ready:
                reach.ready()

    def _all_reaches(self) -> tuple[Reach, ...]:
        return tuple(self._reaches.values())

    @property
    def place(self) -> None:
        """Always None: it has no place of its own."""

    def beside(self, service: ReachableService, beside: Callable[[], Sequence[Reach]]) -> None:
        """Always None: other services cannot be found through it."""

    @property
    def find_service(self) -> None:
        """Always None: the replicas find services in this process."""

    @property
    def outlives(self) -> bool:
        """Always False: the replicas end with this process."""
        return False

    def announce(self, after: int = 0) -> None:
        """As `Reach.announce`."""
        with self._lock:
            self._announced = True
            reaches = self._all_reaches()
        for reach in reaches:
            reach.announce(after)

    def ready(self) -> None:
        """As `Reach.ready`."""
        with self._lock:
            self._ready = True
            for reach in self._reaches.values():
                reach.ready()

    def changed(self) -> None:
        """As `Reach.changed`."""
        for reach in self._all_reaches():
            reach.changed()

    def stopping(self) -> None:
        """As `Reach.stopping`."""
        for reach in self._all_reaches():
            reach.stopping()

    def stopped(self) -> None:
        """As `Reach.stopped`."""
        with self._lock:
            self._has_stopped = True
        for reach in self._all_reaches():
            reach.stopped()

    def ended(self) -> None:
        """As `Reach.ended`."""
        for reach in self._all_reaches():
            reach.ended()

    def leave(self) -> None:
        """Do nothing: the replicas never go on without this process."""

    def wait_seen(self) -> None:
        """As `Reach.wait_seen`."""
        for reach in self._all_reaches():
            reach.wait_seen()

    def waiting_elsewhere(self) -> int:
        """As `Reach.waiting_elsewhere`."""
        return sum(reach.waiting_elsewhere() for reach in self._all_reaches())

    def awaited_by_hooks(self) -> tuple[str, ...]:
        """Always empty: the hooks run in this process."""
        return ()

    def wait_found(self) -> None:
        """As `Reach.wait_found`."""
        for reach in self._all_reaches():
            reach.wait_found()

    def vacate(self, replicas: Sequence[Replica], limit: float) -> None:
        """Do nothing: calls of other processes come to the router, which sends none to replicas that leave."""

    def take_over(self) -> EarlierService | None:
        """Always None: no replica outlives its process."""

    def adopt(self, earlier: EarlierReplica, spec: ReplicaSpec, events: ReplicaEvents, clock: Clock) -> Replica:  # noqa: ARG002
        """
        Raise DeployError: there is no earlier replica.

        Raises:
            DeployError: Always.
        """
        msg = f"replica {spec.id} ended with the process that started it"
        raise DeployError(msg, service=spec.service, replica=spec.id)

    def handle_parts(self) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
        """As `Reach.handle_parts`; None if no service of the environment is in another process."""
        reaches = self._all_reaches()
        return reaches[0].handle_parts() if reaches else None


class Reachable:
    """
    A service as its `Reach` sees it: `interfaces.ReachableService`.

    Attributes:
        router: The service's router.
        clock: The service's clock.
    """

    def __init__(self, replicas: ReplicaSet, balancing: Balancing) -> None:
        self.router = replicas.router
        self.clock = replicas.clock
        self._replicas = replicas
        self._balancing = balancing

    @property
    def composition(self) -> Composition:
        """The service's composition."""
        return self._replicas.composition

    @property
    def balancer(self) -> Choice | None:
        """Its present balancer; None if one replica serves and the others stand by."""
        return self._balancing.choice

    @property
    def key_of(self) -> KeyOf | None:
        """Computes the key of a call from its arguments; None without a balancer that names an argument."""
        return self._balancing.key_of

    @property
    def places(self) -> int:
        """How many replicas it should have now."""
        return len(self._replicas.places)

    @property
    def sleeps(self) -> bool:
        """Whether it has no replica because it had nothing to do."""
        scaler = self._replicas.scaler
        return scaler is not None and scaler.asleep

    def wake(self) -> None:
        """Start a replica, because another process calls the service; never blocks."""
        scaler = self._replicas.scaler
        if scaler is not None:
            scaler.look_soon(from_elsewhere=True)
