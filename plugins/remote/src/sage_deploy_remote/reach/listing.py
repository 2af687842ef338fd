"""Descriptions of services that processes exchange: enough to call a service whose replicas can be reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sage_plugins.values import Where

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sage_plugins.config.nested_keys import Policies
    from sage_plugins.interfaces import KnownService
    from sage_plugins.service.call_key import KeyOf
    from sage_plugins.values import Choice, MethodPlan

__all__ = ["Found", "ListedReplica", "Listing"]


class ListedReplica(NamedTuple):
    """
    A replica that takes calls.

    Attributes:
        service: Its name.
        id: The replica's ID, such as `"kv#0"`.
        index: Position in the service, from 0.
        node: Its node's name.
        slots: Number of calls that may run at once, of all callers together.
        address: The address by which its target's plugin reaches it from another process.
        seniority: Without a balancer, the replica with the lowest number serves, and the others stand by.
        avoided: Whether it gets calls only if there is no other replica.
        can_reattach: Whether it exists as long as it is listed, so that a client that has lost it connects again.
    """

    service: str
    id: str
    index: int  # type: ignore[assignment] # hides tuple.index, which nobody needs here
    node: str | None
    slots: int
    address: Any
    seniority: int = 0
    avoided: bool = False
    can_reattach: bool = False


class Listing(NamedTuple):
    """
    A service's state, as the deploying process publishes it.

    Attributes:
        service: Its name.
        incarnation: Number of this deployment of the service; a later one has a higher number.
        version: Higher than in every earlier listing of the service.
        methods: The served methods, ordered by index.
        queue_size: Number of calls that may wait in each calling process.
        overload: What happens if that many wait, as in the field of this name.
        queue_timeout: Seconds that a call may wait for its start; None for no limit.
        policies: The policies for calls that fail.
        balancer: The load balancer; None if one replica serves and the others stand by.
        key_of: Computes a call's key from its arguments; None without a balancer that names an argument.
        places: Number of replicas that the service should have.
        replicas: The replicas that take calls.
        stopped: Completes "service 'kv' ..." if the service takes no more calls; else empty.
        unavailable: Why there is no replica and will be none; else empty.
        environment: Name of the service's environment, for its balancers; None if it has none.
        scales: Whether the number of replicas follows the load, so that callers report their waiting calls.
    """

    service: str
    incarnation: int
    version: int
    methods: tuple[MethodPlan, ...]
    queue_size: int
    overload: str
    queue_timeout: float | None
    policies: Policies
    balancer: Choice | None
    key_of: KeyOf | None
    places: int
    replicas: tuple[ListedReplica, ...] = ()
    stopped: str = ""
    unavailable: str = ""
    environment: str | None = None
    scales: bool = False

    @property
    def where(self) -> Where:
        """What its balancers get to know about the service."""
        return Where(self.service, self.environment)


class Found(NamedTuple):
    """
    What a directory knows about a service.

    Attributes:
        listing: The requested service; None if it has not been deployed.
        known: The services of its environment by name, as of the last start of one of them.
        circle: A chain of services from the one whose start hooks ask back to itself; the start hooks of each wait for
            the next to be deployed. Empty if there is none.
    """

    listing: Listing | None
    known: Mapping[str, KnownService]
    circle: tuple[str, ...] = ()
