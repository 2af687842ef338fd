"""The way to a replica that another process has started: calls go there, its life is not ours to decide."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from sage_deploy_ray.actors.transport import RayTransport
from sage_deploy_remote.link.replica import RemoteReplica
from sage_deploy_remote.link.transport import Stopped

if TYPE_CHECKING:
    from sage_deploy_remote.link.dispatcher import Dispatcher
    from sage_deploy_remote.link.transport import Receiver
    from sage_deploy_remote.reach.listing import ListedReplica
    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import ReplicaEvents

__all__ = ["attach"]


def attach(listed: ListedReplica, events: ReplicaEvents, clock: Clock, dispatcher: Dispatcher) -> RemoteReplica:
    """The caller's side of a replica that runs; it is usable at once."""
    replica = RemoteReplica(listed, listed.node, events, clock, _AttachedTransport(listed, dispatcher))
    replica.slots = listed.slots
    return replica


class _AttachedTransport(RayTransport):
    """A `RayTransport` that neither starts nor stops the actor."""

    def __init__(self, listed: ListedReplica, dispatcher: Dispatcher) -> None:
        super().__init__(lambda: listed.address, listed.node, dispatcher, _ignore)

    def start(self, spec: Any, receiver: Receiver) -> None:
        """Begin to watch the actor."""
        self._reach(spec.id, receiver)
        # Not kept by what Ray keeps: a replica that nobody calls any more is let go of while it lives on.
        here = weakref.ref(self)
        self._actor.wait_ended.remote().future().add_done_callback(lambda future: _ended(here, future))

    def ask_to_stop(self) -> None:
        """Its owner's."""

    def stop(self, grace: float) -> Stopped:  # noqa: ARG002 - as above
        """Its owner's."""
        return Stopped(0, None)


def _ended(transport: weakref.ref[_AttachedTransport], future: Any) -> None:
    found = transport()
    if found is not None:
        found.soon(lambda: found._ended(future))  # noqa: SLF001 - as a method of it


def _ignore(reached: bool) -> None:  # noqa: FBT001 - as the transport calls it
    """What was reserved for the replica is its owner's to know."""
