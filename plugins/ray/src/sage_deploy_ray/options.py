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
        group: Name of a group in `options.ray.groups`, used instead of `node_selector`; null: no group.
    """

    group: str | None = None


@attrs.frozen
class GroupOptions:
    """
    A group of nodes. A node belongs to it if it matches both fields.

    Attributes:
        nodes: Names, IDs, host names or IP addresses of the nodes; null: all nodes.
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
        address: Address of the cluster, such as `10.0.0.1:6379`; `auto`: the cluster on this machine. Null: the address
            in the variable `RAY_ADDRESS`; if that is not set, a private runtime on this machine.
        namespace: Ray namespace for the names of actors.
        groups: Groups of nodes by name; `options.cluster_group.group` selects one.
        control_timeout: Maximum wait for an answer of the cluster or of a replica, in seconds; calls have their own
            timeouts.
        lifetime: How long replicas live. `driver`: as long as the deploying process. `detached`: until they are
            stopped, for instance with `drain`. Then another process with an environment of the same name can call
            them, and takes them over when the first process has ended. The cluster must outlive the process.
        auth: How Ray's processes authenticate. `inherit`: as the variable `RAY_AUTH_MODE` says. `token`: with a token.
            `disabled`: not at all, so anyone who reaches the cluster can use it.
        calls: How calls reach a replica. `socket`: over a direct socket; a replica without one fails to start. `tasks`:
            as Ray tasks; a single call takes more than seven times as long. `auto`: over a socket if possible,
            otherwise as Ray tasks.
        tls: Certificates for TLS on calls between machines: the paths of `certificate`, `key` and `authority`, the same
            on every node. Null: the certificates in Ray's variables if `RAY_USE_TLS` is set, otherwise no TLS.
    """

    address: str | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.min_len(1)))
    namespace: str = attrs.field(default="sage-deploy", validator=attrs.validators.min_len(1))
    groups: Mapping[str, GroupOptions] = attrs.field(factory=dict)
    control_timeout: float = attrs.field(default=5.0, validator=attrs.validators.gt(0), metadata={"unit": "seconds"})
    lifetime: Literal["driver", "detached"] = "driver"
    auth: Literal["inherit", "token", "disabled"] = "inherit"
    calls: Literal["auto", "socket", "tasks"] = "auto"
    tls: Certificates | None = None
