"""
Where the services of an environment are found by other processes on the cluster.

`ray_directory` says and looks up, in an actor that `directory_client` keeps: `directory_actor` for one process, or
`registry_actor` for all detached services. Modules here import `actors`, `cluster`, the library and the core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_deploy_ray.directory.ray_directory import RayDirectory
    from sage_deploy_ray.options import RayOptions
    from sage_deploy_remote.shipping.versions import ProtocolVersion

__all__ = ["revive"]


def revive(
    version: ProtocolVersion, environment: str, options: RayOptions, process: str | None, *_: Any
) -> RayDirectory:
    """
    The directory that was pickled, here or by another version.

    It stays at this place in all versions, as its first argument does: so processes of two versions learn that they
    differ.

    Args:
        version: What the process speaks that deploys the environment.
        environment: ID of the environment.
        options: Which cluster, and which namespace there.
        process: Who deploys the environment; None if its services are detached.
    """
    from sage_deploy_ray.directory.ray_directory import RayDirectory

    return RayDirectory(environment, options, process, version=version)
