"""Targets that run replicas on a Ray cluster: `remote_any`, `remote_specific`, `cluster_group`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.hookspecs import hookimpl
from sage_plugins.values import EnvironmentOptions, Registration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sage_deploy_ray.options import ClusterGroupOptions, RayOptions
    from sage_plugins.findings import Finding
    from sage_plugins.values import Explanation, Problem

__all__ = ["sage_register_checks", "sage_register_targets"]

# The functions import the rest of the package when they run, which keeps plugin discovery cheap.


def _create_any(options: None, environment: RayOptions) -> Any:
    from sage_deploy_ray.target import RayTarget

    return RayTarget("remote_any", options, environment)


def _create_specific(options: None, environment: RayOptions) -> Any:
    from sage_deploy_ray.target import RayTarget

    return RayTarget("remote_specific", options, environment)


def _create_group(options: ClusterGroupOptions, environment: RayOptions) -> Any:
    from sage_deploy_ray.target import RayTarget

    return RayTarget("cluster_group", options, environment)


def _ray_options() -> type:
    from sage_deploy_ray.options import RayOptions

    return RayOptions


def _group_options() -> type:
    from sage_deploy_ray.options import ClusterGroupOptions

    return ClusterGroupOptions


def _check_any(config: Any, _options: None, _environment: RayOptions) -> Iterable[Problem]:
    from sage_deploy_ray.checks import check_any

    return check_any(config)


def _check_specific(config: Any, _options: None, _environment: RayOptions) -> Iterable[Problem]:
    from sage_deploy_ray.checks import check_specific

    return check_specific(config)


def _check_group(config: Any, options: ClusterGroupOptions, environment: RayOptions) -> Iterable[Problem]:
    from sage_deploy_ray.checks import check_group

    return check_group(config, options, environment)


def _explain_any(config: Any, _options: None, environment: RayOptions) -> Iterable[str | Explanation]:
    from sage_deploy_ray.checks import explain_any

    return explain_any(config, environment)


def _explain_specific(config: Any, _options: None, environment: RayOptions) -> Iterable[str | Explanation]:
    from sage_deploy_ray.checks import explain_specific

    return explain_specific(config, environment)


def _explain_group(config: Any, options: ClusterGroupOptions, environment: RayOptions) -> Iterable[str | Explanation]:
    from sage_deploy_ray.checks import explain_group

    return explain_group(config, options, environment)


_ENVIRONMENT = EnvironmentOptions("ray", _ray_options, "The Ray cluster, and groups of its nodes")

#: Each replica is an actor with a process of its own, and the process ends with the actor.
_CAPABILITIES = frozenset(
    {"can_kill", "detaches", "lists_nodes", "reachable", "replaces_unhealthy", "reports_progress"}
)


@hookimpl
def sage_register_targets() -> list[Registration]:
    """Offer `remote_any`, `remote_specific` and `cluster_group`."""
    return [
        Registration(
            "remote_any",
            _create_any,
            "Replicas on any node of a Ray cluster",
            check=_check_any,
            explain=_explain_any,
            environment_options=_ENVIRONMENT,
            capabilities=_CAPABILITIES,
        ),
        Registration(
            "remote_specific",
            _create_specific,
            "Replicas on named nodes of a Ray cluster",
            check=_check_specific,
            explain=_explain_specific,
            environment_options=_ENVIRONMENT,
            capabilities=_CAPABILITIES,
        ),
        Registration(
            "cluster_group",
            _create_group,
            "Replicas on a group of nodes of a Ray cluster, chosen by labels or by name",
            options=_group_options,
            check=_check_group,
            explain=_explain_group,
            environment_options=_ENVIRONMENT,
            capabilities=_CAPABILITIES,
        ),
    ]


def _check_installation() -> Iterable[Finding]:
    from sage_deploy_ray.cluster.exposure import check_installation

    return check_installation()


def _check_links() -> Iterable[Finding]:
    from sage_deploy_ray.cluster.links import check_links

    return check_links()


@hookimpl
def sage_register_checks() -> list[Callable[[], Iterable[Finding]]]:
    """Check Ray's version, the exposure of its cluster, and how calls would reach replicas."""
    return [_check_installation, _check_links]
