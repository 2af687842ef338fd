"""The directory in which other processes find an environment's services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_deploy_remote.reach.driver_directory import DriverDirectory

if TYPE_CHECKING:
    from sage_deploy_process.transport import AttachedTransport
    from sage_deploy_remote.link.dispatcher import Dispatcher
    from sage_deploy_remote.reach.listing import ListedReplica

__all__ = ["ProcessDirectory"]


class ProcessDirectory(DriverDirectory):
    """The directory of services whose replicas are child processes of the deploying process."""

    def transport(self, replica: ListedReplica, dispatcher: Dispatcher) -> AttachedTransport:  # noqa: ARG002 - interface
        """As `RpcDirectory.transport`."""
        from sage_deploy_process.transport import AttachedTransport  # most processes call no services

        return AttachedTransport(dispatcher)
