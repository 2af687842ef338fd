"""What can be set for the Ray targets beside the fields of a service's configuration."""

from __future__ import annotations

import attrs

__all__ = ["ClusterGroupOptions"]


@attrs.frozen
class ClusterGroupOptions:
    """
    Options of target `cluster_group`.

    Attributes:
        group: Name of a group of `options.ray.groups`, which stands in for `node_selector`; null for none.
    """

    group: str | None = None
