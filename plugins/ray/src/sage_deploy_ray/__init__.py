"""Targets that run replicas on a Ray cluster: `remote_any`, `remote_specific`, `cluster_group`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sage_plugins.findings import Finding
    from sage_plugins.values import Registration

__all__ = ["sage_register_checks", "sage_register_targets"]


@hookimpl
def sage_register_targets() -> list[Registration]:
    """Offer nothing yet."""
    return []


def _check_installation() -> Iterable[Finding]:
    from sage_deploy_ray.exposure import check_installation

    return check_installation()


@hookimpl
def sage_register_checks() -> list[Callable[[], Iterable[Finding]]]:
    """Look at Ray's version, and at what of its cluster is open to others."""
    return [_check_installation]
