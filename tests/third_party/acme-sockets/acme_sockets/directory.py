"""The directory of an environment's services. Its server runs in a thread of the deploying process."""

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
        """Make the transport from another process to a replica."""
        return AttachedTransport(dispatcher)
