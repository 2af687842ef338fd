"""Makes the guards of a router; imports their modules only for a service that needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_plugins.config.nested_keys import Policies, policies_of
from sage_plugins.routing.guarding.unguarded import UNGUARDED

if TYPE_CHECKING:
    from sage_plugins.config.service_config import ServiceDeploymentConfig
    from sage_plugins.routing.guarding.parts import Tell
    from sage_plugins.routing.guarding.unguarded import Unguarded

__all__ = ["guards_by", "guards_for"]


def guards_for(config: ServiceDeploymentConfig, tell: Tell) -> Unguarded:
    """Return the guards of a service with this *config*, which report their decisions to *tell*."""
    return guards_by(policies_of(config), tell, kills=config.timeout_strength == "kill")


def guards_by(policies: Policies, tell: Tell, *, kills: bool = False) -> Unguarded:
    """As `guards_for`, for the policies of a configuration; *kills* only in a process that can kill the replicas."""
    if policies == Policies() and not kills:
        return UNGUARDED
    from sage_plugins.routing.guarding.guards import Guards

    return Guards(policies, tell, kills=kills)
