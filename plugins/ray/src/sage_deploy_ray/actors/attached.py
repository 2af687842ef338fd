"""The way to a replica that another process has started: calls go there, its life is not ours to decide."""

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
    """A `RayTransport` to an actor that runs already."""

    def __init__(self, listed: ListedReplica, options: RayOptions, dispatcher: Dispatcher) -> None:
        """Prepare the way; *dispatcher* has the threads that read what arrives, *options* say how calls go."""
        super().__init__(lambda: listed.address, listed.node, options, dispatcher, _ignore)

    def start(self, spec: Any, receiver: Receiver) -> None:
        """Begin to watch the actor."""
        self.receiver = receiver
        self.reach(spec.id)
        self.watch(self.request("wait_ended"))
        receiver.hold()
        self.find_way(receiver.release, receiver.lost)

    def let_go(self) -> None:
        """As `RayTransport.let_go`: others may still reach it."""


def _ignore(reached: bool) -> None:  # noqa: FBT001 - as the transport calls it
    """What was reserved for the replica is its owner's to know."""
