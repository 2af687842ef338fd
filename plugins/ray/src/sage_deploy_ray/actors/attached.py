"""The transport to a replica of another process. That process decides when the replica ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_deploy_ray.actors.transport import RayTransport

if TYPE_CHECKING:
    from sage_deploy_ray.options import RayOptions
    from sage_deploy_remote.link.dispatcher import Dispatcher
    from sage_deploy_remote.link.transport import Receiver
    from sage_deploy_remote.reach.listing import ListedReplica

__all__ = ["AttachedTransport"]


class AttachedTransport(RayTransport):
    """A `RayTransport` to an actor that already runs."""

    def __init__(self, listed: ListedReplica, options: RayOptions, dispatcher: Dispatcher) -> None:
        """Prepare the transport. *options* decide how calls are sent; *dispatcher* provides the reading threads."""
        super().__init__(lambda: listed.address, listed.node, options, dispatcher, _ignore)

    def start(self, spec: Any, receiver: Receiver) -> None:
        """Start watching the actor."""
        self.receiver = receiver
        self.bind_actor(spec.id)
        self.watch(self.request("wait_ended"))
        receiver.hold()
        self.choose_connection(receiver.release, receiver.lost)

    def end_after_disconnect(self) -> None:
        """As `RayTransport.end_after_disconnect`. Does nothing, because other processes may still reach the actor."""


def _ignore(reached: bool) -> None:  # noqa: FBT001 - the transport calls it this way
    """Do nothing: only the owner keeps the replica's reservation."""
