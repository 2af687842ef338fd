"""The methods of a replica's process that callers use through a `rpc_transport.RpcTransport`."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from sage_deploy_remote.link.serving.pushing import carry_calls
from sage_deploy_remote.link.serving.server import ReplicaServer
from sage_deploy_remote.payloads.errors import pack_error
from sage_deploy_remote.payloads.substrate import PLAIN
from sage_deploy_remote.shipping.specs import unpack_spec
from sage_plugins.errors import ServiceNotFoundError
from sage_plugins.interfaces import ControlOp

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from socket import socket

    from sage_deploy_remote.link.protocol import Frame, Notice, Response
    from sage_deploy_remote.link.serving.late_calls import ArgumentSource
    from sage_deploy_remote.link.serving.pushing import CallersCarrier
    from sage_deploy_remote.payloads.errors import PackedError
    from sage_deploy_remote.payloads.substrate import Substrate

__all__ = ["ReplicaEndpoint"]


class ReplicaEndpoint:
    """
    Builds the replica of this process, and passes on what its callers request.

    Each method may block, so call each in a separate thread: `control` and `stop` must answer while exchanges wait.
    Exceptions of the service are returned, packed.
    """

    def __init__(self, source: ArgumentSource | None = None, substrate: Substrate = PLAIN) -> None:
        """Prepare; *source* and *substrate* are as for `ReplicaServer`."""
        self._source = source
        self._substrate = substrate
        self._lock = threading.Lock()
        self._server: ReplicaServer | None = None  # guarded by _lock, as the next
        self._stopped = False

    def start(
        self, packed: bytes, node: str | None, prepare: Callable[[], None] | None = None
    ) -> tuple[int, PackedError | None]:
        """
        Build the replica.

        Args:
            packed: The spec, from `pack_spec`.
            node: Name of this node.
            prepare: Called first; its error counts as one of the constructor.

        Returns:
            The number of slots, 0 if the replica was stopped meanwhile; and the packed error of its constructor or a
            hook.
        """
        service = replica = ""
        try:
            if prepare is not None:
                prepare()
            spec = unpack_spec(packed)
            service, replica = spec.service, spec.id
            with self._lock:
                if self._stopped:
                    return 0, None
                find_service = spec.find_service or partial(_no_other, spec.service)
                server = self._server = ReplicaServer(spec, node, find_service, self._source, self._substrate)
            return server.start(), None
        except BaseException as error:  # noqa: BLE001 - also sys.exit() in a constructor
            return 0, self._packed(error, "__init__", service, replica, node)

    def exchange(self, frame: Frame) -> Response:
        """As `ReplicaServer.exchange`."""
        return self._started().exchange(frame)

    def carry_calls(self, end: socket, carrier: CallersCarrier | None = None) -> None:
        """As `pushing.carry_calls`, for a caller that has connected."""
        carry_calls(self._started, end, carrier)

    def _started(self) -> ReplicaServer:
        assert self._server is not None  # noqa: S101 - callers wait for `start` first
        return self._server

    def control(
        self, op: ControlOp, arg: Any, notices: Collection[tuple[str, Notice]]
    ) -> tuple[Any, PackedError | None]:
        """As `ReplicaServer.control`; returns the answer and the packed error."""
        server = self._server
        if server is None:
            return None, self._packed(RuntimeError("it is still being built"), str(op))
        try:
            answer = server.control(op, arg, notices)
            # Values of the service travel like results: by value where necessary, and refused with the same error.
            return server.packer.pack_result(answer, str(arg)) if op is ControlOp.GET else answer, None
        except BaseException as error:  # noqa: BLE001 - a check may raise anything
            return None, server.packer.pack_error(error, str(op))

    def vacate(self) -> None:
        """As `ReplicaServer.vacate`."""
        if self._server is not None:
            self._server.vacate()

    def stop(self, grace: float) -> tuple[int, Mapping[str, Any] | None]:
        """Stop the replica; return the number of calls that still run, and its last statistics."""
        with self._lock:  # a server that does not exist by now will not be built
            self._stopped = True
            server = self._server
        return (0, None) if server is None else (server.stop(grace), server.control(ControlOp.STATS, None, ()))

    def _packed(
        self, error: BaseException, method: str, service: str = "", replica: str = "", node: str | None = None
    ) -> PackedError:
        return pack_error(error, service=service, method=method, replica=replica, node=node, substrate=self._substrate)


def _no_other(caller: str, name: str) -> Any:
    msg = f"service '{caller}' was made outside any environment, so it cannot find service '{name}'"
    raise ServiceNotFoundError(msg, service=name)
