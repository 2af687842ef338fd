"""Transports to a replica's process, for its parent and for other processes."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from multiprocessing import Pipe
from socket import socketpair
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_process.child import Child, start_error
from sage_deploy_remote.link.sockets.transport import SocketTransport
from sage_deploy_remote.rpc.address import Address
from sage_deploy_remote.rpc.client import RpcClient
from sage_deploy_remote.shipping.specs import pack_spec
from sage_plugins.errors import ReplicaDiedError
from sage_plugins.threads import CALLBACKS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from sage_deploy_process.lifeline import Settings
    from sage_deploy_remote.link.dispatcher import Dispatcher
    from sage_deploy_remote.link.transport import Receiver
    from sage_plugins.values import ReplicaSpec

__all__ = ["AttachedTransport", "ProcessTransport"]

_MODULE: Final = "sage_deploy_process.replica"


class _ReplicaTransport(SocketTransport):
    """
    Sends requests to `replica.Replica` through a client. Calls use a separate connection.

    If either connection ends, the process counts as dead.
    """

    _client: RpcClient
    _replica: str

    def _set_client(self, replica: str, client: RpcClient) -> None:
        self._replica = replica
        self._client = client
        self.watch(client.ended)

    def request(self, method: str, *arguments: Any) -> Future[Any]:
        return self._client.request(method, *arguments)


class ProcessTransport(_ReplicaTransport):
    """Starts the replica's process, and ends it."""

    def __init__(
        self, dispatcher: Dispatcher, settings: Settings, environment: Mapping[str, str], on_ended: Callable[[], None]
    ) -> None:
        """
        Prepare the transport. Nothing happens before `start`.

        Args:
            dispatcher: Provides the threads that read responses.
            settings: Settings of the process.
            environment: Its environment variables.
            on_ended: Called when the process has ended, possibly more than once.
        """
        super().__init__(dispatcher)
        self._settings = settings
        self._environment = environment
        self._on_ended = on_ended

    def begin(self, spec: ReplicaSpec) -> Future[Any]:
        """As `RpcTransport.begin`. Raises DeployError if the process cannot be started."""
        self.address = Address.new()
        try:
            self._child = self._spawn(spec.id)
        except BaseException:
            self._on_ended()
            raise
        try:
            packed = pack_spec(spec)  # meanwhile the child's interpreter starts
        except BaseException:
            self._end_expected = True
            self.end()
            raise
        return self.request("listen", packed, self.address)

    def _spawn(self, name: str) -> Child:
        with ExitStack() as child_ends, ExitStack() as own_ends:
            try:
                # These have no names, so no other process can connect to them.
                (requests, child_requests), (calls, child_calls) = Pipe(), socketpair()
            except OSError as error:
                raise start_error(name, error) from error
            for end in (child_requests, child_calls):
                child_ends.enter_context(end)
            for end in (requests, calls):
                own_ends.enter_context(end)
            descriptors = (child_requests.fileno(), child_calls.fileno())
            child = Child(
                _MODULE, name, descriptors=descriptors, settings=self._settings, environment=self._environment
            )
            own_ends.pop_all()
        self.use_connection(calls, name, exact=True)
        self._set_client(name, RpcClient(lambda: requests, name))
        return child

    def death(self, error: BaseException) -> BaseException:  # noqa: ARG002 - the exit status says more
        """As `RpcTransport.death`. Also ends a process that has only closed its connection: it is of no use."""
        ended = self._child.end_after_grace()
        self._on_ended()
        return ReplicaDiedError(f"replica {self._replica} is gone: {ended}", replica=self._replica)

    def end(self) -> None:
        """As `RpcTransport.end`."""
        self._child.end()
        self._on_ended()
        self._client.close()
        self.end_calls()
        self.address.remove()


class AttachedTransport(_ReplicaTransport):
    """Connects to a replica that another process has started and will end."""

    def start(self, spec: Any, receiver: Receiver) -> None:
        """Connect to a `ListedReplica`."""
        self.receiver = receiver
        self._set_client(spec.id, RpcClient(spec.address.connect, spec.id))
        receiver.hold()
        CALLBACKS.run(partial(self._connect, spec.address))

    def _connect(self, address: Address) -> None:
        try:
            end = address.connect_socket()
        except Exception as error:  # noqa: BLE001 - nobody listens, or another process does
            self.lost(error)
        else:
            self.use_connection(end, self._replica, exact=address.exact)
            self.receiver.release()

    def death(self, error: BaseException) -> BaseException:
        """As `RpcTransport.death`."""
        return ReplicaDiedError(f"replica {self._replica} is gone: {error}", replica=self._replica)
