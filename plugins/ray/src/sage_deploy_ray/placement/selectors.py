"""Selects the nodes that each Ray target may use for a service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_deploy_remote.placement.selection import AnyNode, NamedNodes, labelled_nodes

if TYPE_CHECKING:
    from sage_deploy_ray.options import ClusterGroupOptions, RayOptions
    from sage_deploy_remote.placement.selection import NodeSelector
    from sage_plugins.config.service_config import ServiceDeploymentConfig

__all__ = ["selector_for"]


def selector_for(
    target_id: str, config: ServiceDeploymentConfig, options: ClusterGroupOptions | None, environment: RayOptions
) -> NodeSelector:
    """
    Return a selector of the nodes for a service. Its configuration must have passed the checks.

    Args:
        target_id: `"remote_any"`, `"remote_specific"` or `"cluster_group"`, as `RayTarget` gets it.
        config: The service's configuration.
        options: The target's options for the service.
        environment: Defines the named groups.
    """
    if target_id == "remote_specific":
        return NamedNodes(tuple(config.target_nodes or ()))
    if target_id == "remote_any":
        return AnyNode()
    if options is None or options.group is None:
        return labelled_nodes(config.node_selector or {})
    group = environment.groups[options.group]
    return labelled_nodes(group.labels, group.nodes, group=options.group)
