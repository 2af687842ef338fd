"""What is left of a service after its process has ended: the next process takes it over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from sage_deploy_remote.reach.listing import Listing
    from sage_plugins.config.service_config import ServiceDeploymentConfig
    from sage_plugins.service.call_key import KeyOf
    from sage_plugins.values import Choice, ReplicaSpec

__all__ = ["ReplicaSnapshot", "ServiceSnapshot"]


class ReplicaSnapshot(NamedTuple):
    """
    A replica that was started by an earlier process.

    Attributes:
        index: Position among the service's replicas, from 0.
        generation: How many replicas were at this position before it.
        node: Name of its node.
        address: By which its target reaches it.
    """

    index: int  # type: ignore[assignment] # hides tuple.index, which nobody needs of it
    generation: int
    node: str | None
    address: Any


class ServiceSnapshot(NamedTuple):
    """
    A service that was deployed by an earlier process, and was not stopped.

    Attributes:
        spec: What its replicas are made of; the spec of any of them.
        replicas: Those that there are, at most one for each index; there may be none.
        listing: What that process published last; None if that is not known any more.
    """

    spec: ReplicaSpec
    replicas: tuple[ReplicaSnapshot, ...]
    listing: Listing | None

    @property
    def balancer(self) -> Choice | None:
        """Who chose among its replicas; None if nobody did or that is not known any more."""
        return None if self.listing is None else self.listing.balancer

    @property
    def key_of(self) -> KeyOf | None:
        """The key of a call by its arguments; as `balancer`."""
        return None if self.listing is None else self.listing.key_of

    @property
    def version(self) -> int:
        """Of what that process published last; 0 if that is not known any more."""
        return 0 if self.listing is None else self.listing.version

    @property
    def places(self) -> int:
        """How many replicas the service should have."""
        config: ServiceDeploymentConfig = self.spec.config
        return max(config.replicas, len(self.replicas)) if self.listing is None else self.listing.places
