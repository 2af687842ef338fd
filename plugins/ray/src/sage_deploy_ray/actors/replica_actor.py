"""
The Ray actor that runs a replica. It passes every request to the replica's endpoint.

In all versions, the first argument of `start` and `wait_started` is the caller's `own_version()`. If the actor speaks
another protocol, they return `(None, own_version())`. `describe` returns `(own_version(), ...)`.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Final

import ray

from sage_deploy_ray.actors import arguments, wire
from sage_deploy_ray.actors.carriers import ActorCarrier
from sage_deploy_ray.actors.references import RAY
from sage_deploy_ray.cluster.certificates import certificates_here
from sage_deploy_remote.link.serving.endpoint import ReplicaEndpoint
from sage_deploy_remote.payloads.errors import pack_error
from sage_deploy_remote.rpc.listeners import Listeners
from sage_deploy_remote.shipping import versions

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sage_deploy_ray.actors.references import Reference
    from sage_deploy_ray.actors.wire import Wire
    from sage_deploy_remote.link.protocol import Notice
    from sage_deploy_remote.rpc.address import Address
    from sage_deploy_remote.rpc.certificates import Certificates
    from sage_deploy_remote.shipping.versions import ProtocolVersion
    from sage_plugins.interfaces import ControlOp

__all__ = ["GROUPS", "ReplicaActor"]

#: Number of threads by purpose. The group without a name serves calls that use no socket: each calling process keeps
#: one of its threads waiting for responses, and briefly uses a second one to send.
GROUPS: Final = {"start": 1, "watch": 1, "vacate": 1, "stop": 2, "control": 4, "reach": 1}


class ReplicaActor:
    """
    One replica in a Ray worker.

    Starting, checking and stopping have threads of their own, so they work while all slots are taken.
    """

    def __init__(self, threads: int, tls: Certificates | None = None) -> None:
        """
        Wait for `start`.

        Args:
            threads: Thread count for numeric libraries. They read it when the service's class is unpickled.
            tls: As `RayOptions.tls`.
        """
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        self._replica = ReplicaEndpoint(arguments, RAY)
        self._carrier = ActorCarrier()
        self._listeners = Listeners(
            ray.util.get_node_ip_address,
            lambda end: self._replica.carry_calls(end, self._carrier),
            lambda: certificates_here(tls),
        )
        self._packed_spec_and_node: tuple[bytes | None, str | None] = (
            None,
            None,
        )  # the spec only if `describe` may tell it
        self._outcome: tuple[int, Any] = _not_started_outcome()
        self._stopped = threading.Event()

    @ray.method(concurrency_group="start")
    def start(self, caller_version: ProtocolVersion, *what: Any, **how: Any) -> tuple[int | None, Any]:
        """
        Build the replica. Returns its number of slots, and the error of its constructor.

        Args:
            caller_version: The caller's version. If its protocol differs, the result is `(None, own_version())`.
            what: The packed replica, and the name of its node.
            how: `remember`: whether `describe` returns the packed replica.
        """
        return (None, versions.own_version()) if caller_version[0] != versions.NUMBER else self._start(*what, **how)

    @ray.method(concurrency_group="start")
    def wait_started(self, caller_version: ProtocolVersion) -> tuple[int | None, Any]:
        """Return the result of another process's `start`, after it has ended."""
        return (None, versions.own_version()) if caller_version[0] != versions.NUMBER else self._outcome

    @ray.method(concurrency_group="control")
    def describe(self) -> tuple[ProtocolVersion, bytes | None, str | None, str]:
        """Return the version, the packed replica (None if not started or remembered), and the node's name and ID."""
        return versions.own_version(), *self._packed_spec_and_node, ray.get_runtime_context().get_node_id()

    def _start(self, packed: bytes, node: str | None, *, remember: bool = False) -> tuple[int, Any]:
        self._packed_spec_and_node = packed if remember else None, node
        self._outcome = self._replica.start(packed, node)
        return self._outcome

    @ray.method(concurrency_group="watch")
    def wait_ended(self) -> None:
        """Wait until the replica has stopped. Fails if its process dies first."""
        self._stopped.wait()

    def exchange(self, frame: Wire) -> Wire:
        """As `ReplicaServer.exchange`."""
        return wire.write_response(self._replica.exchange(wire.read_frame(frame)))

    @ray.method(concurrency_group="reach")
    def listener(self, machine: str) -> Address:
        """As `Listeners.address_for`."""
        return self._listeners.address_for(machine)

    @ray.method(concurrency_group="reach")
    def deliver(self, mark: str, references: Sequence[Reference]) -> None:
        """As `ActorCarrier.deliver`."""
        self._carrier.deliver(mark, references)

    @ray.method(concurrency_group="reach")
    def fetch(self, mark: str) -> Sequence[Reference]:
        """As `ActorCarrier.fetch`."""
        return self._carrier.fetch(mark)

    @ray.method(concurrency_group="control")
    def control(self, op: ControlOp, arg: Any, notices: Collection[tuple[str, Notice]]) -> tuple[Any, Any]:
        """As `ReplicaEndpoint.control`."""
        return self._replica.control(op, arg, notices)

    @ray.method(concurrency_group="vacate")
    def vacate(self) -> None:
        """As `ReplicaServer.vacate`."""
        self._replica.vacate()

    @ray.method(concurrency_group="stop")
    def stop(self, grace: float) -> tuple[int, Mapping[str, Any] | None]:
        """As `ReplicaEndpoint.stop`."""
        stopped = self._replica.stop(grace)
        self._listeners.stop_accepting()
        self._listeners.wait_delivered()
        self._stopped.set()
        return stopped


def _not_started_outcome() -> tuple[int, Any]:
    error = RuntimeError("the process that made it ended before it sent what it runs")
    return 0, pack_error(error, service="", method="__init__", replica="", node=None)
