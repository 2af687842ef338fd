"""Describes what a service left running when its process ended, for the next process, which takes it over."""

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
    A replica that an earlier process started.

    Attributes:
        index: Position in the service, from 0.
        generation: Number of replicas that were at this position before.
        node: Its node's name.
        address: The address by which its target reaches it.
    """

    index: int  # type: ignore[assignment] # hides tuple.index, which nobody needs here
    generation: int
    node: str | None
    address: Any


class ServiceSnapshot(NamedTuple):
    """
    A service that an earlier process deployed and did not stop.

    Attributes:
        spec: The spec of any of its replicas.
        replicas: The replicas that exist, at most one for each index; may be empty.
        listing: The last listing that the earlier process published; None if it is lost.
    """

    spec: ReplicaSpec
    replicas: tuple[ReplicaSnapshot, ...]
    listing: Listing | None

    @property
    def balancer(self) -> Choice | None:
        """The balancer of the last listing; None if it had none or is lost."""
        return None if self.listing is None else self.listing.balancer

    @property
    def key_of(self) -> KeyOf | None:
        """Computes a call's key from its arguments; None if the last listing had no such function or is lost."""
        return None if self.listing is None else self.listing.key_of

    @property
    def version(self) -> int:
        """The version of the last listing; 0 if it is lost."""
        return 0 if self.listing is None else self.listing.version

    @property
    def places(self) -> int:
        """Number of replicas that the service should have."""
        config: ServiceDeploymentConfig = self.spec.config
        return max(config.replicas, len(self.replicas)) if self.listing is None else self.listing.places
