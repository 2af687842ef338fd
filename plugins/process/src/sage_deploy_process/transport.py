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

    def _use(self, replica: str, client: RpcClient) -> None:
        self._replica = replica
        self._client = client
        self.watch(client.ended)

    def request(self, method: str, *arguments: Any) -> Future[Any]:
        """As `RpcTransport.request`."""
        return self._client.request(method, *arguments)


class ProcessTransport(_ReplicaTransport):
    """Starts the replica's process, and ends it."""

    def __init__(
        self, dispatcher: Dispatcher, settings: Settings, environment: Mapping[str, str], gone: Callable[[], None]
    ) -> None:
        """
        Prepare the transport. Nothing happens before `start`.

        Args:
            dispatcher: Provides the threads that read responses.
            settings: Settings of the process.
            environment: Its environment variables.
            gone: Called when the process has ended, possibly more than once.
        """
        super().__init__(dispatcher)
        self._settings = settings
        self._environment = environment
        self._gone = gone

    def begin(self, spec: ReplicaSpec) -> Future[Any]:
        """As `RpcTransport.begin`. Raises DeployError if the process cannot be started."""
        self.address = Address.new()
        try:
            self._child = self._spawn(spec.id)
        except BaseException:
            self._gone()
            raise
        try:
            packed = pack_spec(spec)  # meanwhile the child's interpreter starts
        except BaseException:
            self._ends = True
            self.end()
            raise
        return self.request("listen", packed, self.address)

    def _spawn(self, name: str) -> Child:
        with ExitStack() as theirs, ExitStack() as ours:
            try:
                # These have no names, so no other process can connect to them.
                (asks, answers), (calls, replies) = Pipe(), socketpair()
            except OSError as error:
                raise start_error(name, error) from error
            for end in (answers, replies):
                theirs.enter_context(end)
            for end in (asks, calls):
                ours.enter_context(end)
            numbers = (answers.fileno(), replies.fileno())
            child = Child(_MODULE, name, descriptors=numbers, settings=self._settings, environment=self._environment)
            ours.pop_all()
        self.carry_over(calls, name, exact=True)
        self._use(name, RpcClient(lambda: asks, name))
        return child

    def death(self, error: BaseException) -> BaseException:  # noqa: ARG002 - the exit status says more
        """As `RpcTransport.death`. Also ends a process that has only closed its connection: it is of no use."""
        ended = self._child.ended()
        self._gone()
        return ReplicaDiedError(f"replica {self._replica} is gone: {ended}", replica=self._replica)

    def end(self) -> None:
        """As `RpcTransport.end`."""
        self._child.end()
        self._gone()
        self._client.close()
        self.end_calls()
        self.address.remove()


class AttachedTransport(_ReplicaTransport):
    """Connects to a replica that another process has started and will end."""

    def start(self, spec: Any, receiver: Receiver) -> None:
        """Connect to a `ListedReplica`."""
        self.receiver = receiver
        self._use(spec.id, RpcClient(spec.address.connect, spec.id))
        receiver.hold()
        CALLBACKS.run(partial(self._connect, spec.address))

    def _connect(self, address: Address) -> None:
        try:
            end = address.connect_socket()
        except Exception as error:  # noqa: BLE001 - nobody listens, or another process does
            self.lost(error)
        else:
            self.carry_over(end, self._replica, exact=address.exact)
            self.receiver.release()

    def death(self, error: BaseException) -> BaseException:
        """As `RpcTransport.death`."""
        return ReplicaDiedError(f"replica {self._replica} is gone: {error}", replica=self._replica)
