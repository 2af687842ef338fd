"""What processes tell each other of a service: enough to call it, for whoever can reach its replicas."""

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
        service: Name of the service.
        id: Such as `"kv#0"`.
        index: Position among the service's replicas, from 0.
        node: Name of its node.
        slots: Calls at once, at most, of all its callers together.
        address: By which its target's plugin reaches it from another process.
        seniority: Without a balancer the one with the lowest serves, and the others stand by.
        avoided: Whether it gets calls only while there is no other.
        returns: Whether it is there as long as it is listed, so that who has lost it looks for it again.
    """

    service: str
    id: str
    index: int  # type: ignore[assignment] # hides tuple.index, which nobody needs of it
    node: str | None
    slots: int
    address: Any
    seniority: int = 0
    avoided: bool = False
    returns: bool = False


class Listing(NamedTuple):
    """
    A service at one moment of its life, as the process that deployed it tells others.

    Attributes:
        service: Name of the service.
        incarnation: Which deployment of the service this is; a later one has a higher number.
        version: Higher than that of every earlier listing of the service.
        methods: The served methods, ordered by index.
        queue_size: Calls that may wait in each calling process.
        overload: What happens when that many wait, as the field of this name says.
        queue_timeout: Seconds that a call may wait for its start; None for no limit.
        policies: What is done about calls that fail.
        balancer: Who gets the next call; None if one replica serves and the others stand by.
        key_of: The key of a call by its arguments; None without a balancer that names an argument.
        places: How many replicas the service should have.
        replicas: Those that take calls.
        stopped: Completes "service 'kv' ..." if it takes no more calls; else empty.
        unavailable: Why there is no replica and will be none; else empty.
        environment: Name of the service's environment, for its balancers; None if it has none.
        scales: Whether the number of replicas follows the load, so that callers say how many of their calls wait.
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
        """What its balancers are told."""
        return Where(self.service, self.environment)


class Found(NamedTuple):
    """
    What a directory knows.

    Attributes:
        listing: The service that was asked for; None if it has not been deployed.
        known: The services of its environment by name, as they were when one of them was last started.
        circle: The way from the service whose start hooks ask back to itself: each waits in its start hooks for the
            next to be deployed. Empty if there is none.
    """

    listing: Listing | None
    known: Mapping[str, KnownService]
    circle: tuple[str, ...] = ()
