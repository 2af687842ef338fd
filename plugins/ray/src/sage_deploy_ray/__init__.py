"""Targets that run replicas on a Ray cluster: `remote_any`, `remote_specific`, `cluster_group`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from sage_plugins.values import Registration

__all__ = ["sage_register_targets"]


@hookimpl
def sage_register_targets() -> list[Registration]:
    """Offer nothing yet."""
    return []
