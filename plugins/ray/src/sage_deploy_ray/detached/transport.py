"""Transports to replicas that outlive this process: new ones, and ones that an earlier process started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_deploy_ray.actors.references import RAY
from sage_deploy_ray.actors.requests import request
from sage_deploy_ray.actors.transport import RayTransport
from sage_deploy_remote.link.transport import Stopped
from sage_deploy_remote.shipping import versions
from sage_deploy_remote.shipping.specs import pack_spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_deploy_ray.detached.services import DetachedServices
    from sage_deploy_remote.link.rpc_transport import Answer
    from sage_plugins.values import ReplicaSpec

__all__ = ["AdoptedTransport", "DetachedTransport"]


class DetachedTransport(RayTransport):
    """A `RayTransport` whose replica remembers its spec. Only the lease's holder stops it."""

    def __init__(self, *transport_arguments: Any, detached: DetachedServices) -> None:
        """As `RayTransport`. *detached* knows who holds the lease."""
        super().__init__(*transport_arguments)
        self._detached = detached

    def begin(self, spec: ReplicaSpec) -> Answer:
        """As `RpcTransport.begin`."""
        self.bind_actor(spec.id)
        packed = pack_spec(spec, RAY)
        self._detached.remember(spec.service, packed)
        return request(lambda: self._actor.start.remote(versions.own_version(), packed, self._node, remember=True))

    def end_after_disconnect(self) -> None:
        """As `RayTransport.end_after_disconnect`."""
        if not self._detached.lost:
            super().end_after_disconnect()

    def vacate(self) -> Callable[[float], None]:
        """As `Transport.vacate`."""
        return _do_nothing if self._detached.lost else super().vacate()

    def ask_to_stop(self) -> None:
        """As `Transport.ask_to_stop`."""
        if not self._detached.lost:
            super().ask_to_stop()

    def stop(self, grace: float) -> Stopped:
        """As `Transport.stop`."""
        return Stopped(0, None) if self._detached.lost else super().stop(grace)


class AdoptedTransport(DetachedTransport):
    """A `DetachedTransport` to an actor that already builds or runs its replica."""

    def begin(self, spec: ReplicaSpec) -> Answer:
        """As `RpcTransport.begin`. The actor already knows what to run."""
        self.bind_actor(spec.id)
        return self.request("wait_started", versions.own_version())


def _do_nothing(limit: float) -> None:
    """Do nothing: another process decides when the replica refuses calls."""
