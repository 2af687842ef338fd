"""
Lets other processes on the cluster find an environment's services.

`ray_directory` publishes and looks up services in an actor, which `directory_client` starts and restarts.
`directory_actor` serves one deploying process, `registry_actor` all detached services. Modules here import `actors`,
`cluster`, the library and the core.
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
    Return the directory that was pickled, by this version or another one.

    The function keeps its place and its first argument in all versions. So processes with different versions can detect
    the difference.

    Args:
        version: Protocol version of the process that deploys the environment.
        environment: Its ID.
        options: Options that name the cluster and the namespace.
        process: ID of the deploying process; None if the services are detached.
    """
    from sage_deploy_ray.directory.ray_directory import RayDirectory

    return RayDirectory(environment, options, process, version=version)
