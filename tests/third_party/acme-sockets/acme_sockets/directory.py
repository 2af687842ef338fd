"""Where other processes find the services of an environment: in a thread of the process that deploys it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acme_sockets.transport import AttachedTransport
from sage_deploy_remote.reach.driver_directory import DriverDirectory

if TYPE_CHECKING:
    from sage_deploy_remote.link.dispatcher import Dispatcher
    from sage_deploy_remote.reach.listing import ListedReplica


class SocketDirectory(DriverDirectory):
    """Tells other processes how to reach a replica."""

    def transport(self, replica: ListedReplica, dispatcher: Dispatcher) -> AttachedTransport:
        """The way from other processes to a replica."""
        return AttachedTransport(dispatcher)
