"""The transport to a service whose replicas run in the deploying process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_deploy_remote.link.rpc_transport import failed
from sage_deploy_remote.link.sockets.transport import SocketTransport
from sage_plugins.errors import NoReplicaError, ReplicaDiedError, text_of
from sage_plugins.threads import CALLBACKS

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from sage_deploy_remote.link.dispatcher import Dispatcher
    from sage_deploy_remote.link.transport import Receiver
    from sage_deploy_remote.reach.listing import ListedReplica
    from sage_deploy_remote.rpc.certificates import Certificates

__all__ = ["DriverTransport"]


class DriverTransport(SocketTransport):
    """Connects to the deploying process; carries only calls, no other requests."""

    routes = True

    def __init__(self, dispatcher: Dispatcher, certificates: Callable[[], Certificates | None]) -> None:
        """Prepare; *dispatcher* has the threads that read what arrives, *certificates* is `Directory.certificates`."""
        super().__init__(dispatcher)
        self._certificates = certificates

    def start(self, spec: Any, receiver: Receiver) -> None:
        """Connect to a `ListedReplica` with a `DriverAddress`."""
        self.receiver = receiver
        self._listed: ListedReplica = spec
        self._connected = False
        receiver.hold()
        CALLBACKS.run(self._connect)

    def _connect(self) -> None:
        try:
            end, exact = self._listed.address.connect(self._certificates())
        except Exception as error:  # noqa: BLE001 - nobody listens there, or a firewall is in between
            self.lost(error)
        else:
            self._connected = True
            self.carry_over(end, self._listed.id, exact=exact)
            self.receiver.release()

    def request(self, method: str, *arguments: Any) -> Future[Any]:  # noqa: ARG002 - as in the base
        """As `RpcTransport.request`; always fails."""
        return failed(NotImplementedError(method))

    def death(self, error: BaseException) -> BaseException:
        """As `RpcTransport.death`."""
        service = self._listed.service
        where = f"the process that deployed service '{service}', which has its replicas there"
        if not self._connected:
            msg = f"this process cannot connect to {where}: {text_of(error)}"
            return NoReplicaError(msg, service=service)
        return ReplicaDiedError(f"there is no connection to {where}: {text_of(error)}", service=service)
