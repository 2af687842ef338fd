"""Options of the Ray targets, in addition to the fields of a service's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from sage_deploy_remote.placement.label_selectors import parse_requirement
from sage_deploy_remote.rpc.certificates import Certificates

__all__ = ["ClusterGroupOptions", "GroupOptions", "RayOptions"]


def _selectors(_instance: Any, _attribute: attrs.Attribute[Any], labels: Mapping[str, str]) -> None:
    for label, text in labels.items():
        parse_requirement(label, text)


@attrs.frozen
class ClusterGroupOptions:
    """
    Options of target `cluster_group`.

    Attributes:
        group: Name of a group of `options.ray.groups`, which stands in for `node_selector`; null for none.
    """

    group: str | None = None


@attrs.frozen
class GroupOptions:
    """
    A group of nodes. A node belongs to it if it matches both fields.

    Attributes:
        nodes: Names, IDs, host names or IP addresses of the nodes; null for all.
        labels: Labels that a node must have, as for `node_selector`.
    """

    nodes: tuple[str, ...] | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.min_len(1))
    )
    labels: Mapping[str, str] = attrs.field(factory=dict, validator=_selectors)

    def __attrs_post_init__(self) -> None:
        """
        Check that the group excludes some nodes.

        Raises:
            ValueError: The group would contain all nodes.
        """
        if self.nodes is None and not self.labels:
            raise ValueError("must have nodes or labels; for all nodes there is target 'remote_any'")


@attrs.frozen
class RayOptions:
    """
    Options of the Ray targets for the whole environment.

    Attributes:
        address: Address of the cluster, such as `10.0.0.1:6379`, or `auto` for the one on this machine; null for what
            the variable `RAY_ADDRESS` says, and without that for a runtime of its own on this machine.
        namespace: Ray's namespace for the names of actors.
        groups: Groups of nodes by name, for `options.cluster_group.group`.
        control_timeout: Longest wait for an answer of the cluster or of a replica that is asked something beside the
            calls, in seconds.
        lifetime: How long replicas live. `driver`: as long as the process that deploys them. `detached`: until somebody
            stops them, with `drain` for instance; another process that has an environment of the same name calls them,
            and takes them over when the first one has ended. That needs a cluster which outlives the process.
        auth: How Ray's processes show that they belong together. `inherit`: as the variable `RAY_AUTH_MODE` says;
            `token`: with a token; `disabled`: not at all, so that whoever reaches the cluster can use it.
        calls: How calls reach a replica. `socket`: over a socket of their own, and a replica to which there is none
            fails. `tasks`: as tasks of Ray, six times slower. `auto`: over a socket, and as tasks where there is none.
        tls: Certificates with which calls between machines use TLS: the paths of `certificate`, `key` and `authority`
            on every node. Null for those of Ray's variables if `RAY_USE_TLS` is set, else for no TLS.
    """

    address: str | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.min_len(1)))
    namespace: str = attrs.field(default="sage-deploy", validator=attrs.validators.min_len(1))
    groups: Mapping[str, GroupOptions] = attrs.field(factory=dict)
    control_timeout: float = attrs.field(default=5.0, validator=attrs.validators.gt(0), metadata={"unit": "seconds"})
    lifetime: Literal["driver", "detached"] = "driver"
    auth: Literal["inherit", "token", "disabled"] = "inherit"
    calls: Literal["auto", "socket", "tasks"] = "auto"
    tls: Certificates | None = None
