"""Transports to a replica's process: from the process that starts it, and from others."""

from __future__ import annotations

import subprocess
import sys
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Any

from sage_deploy_remote.link.rpc_transport import RpcTransport
from sage_deploy_remote.rpc.address import Address
from sage_deploy_remote.rpc.client import RpcClient
from sage_deploy_remote.shipping.specs import pack_spec
from sage_plugins.errors import ReplicaDiedError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from sage_deploy_remote.link.transport import Receiver
    from sage_plugins.values import ReplicaSpec


class ReplicaTransport(RpcTransport):
    """Calls methods of `replica.Replica` through a client. If the client's connection ends, the process is dead."""

    _client: RpcClient
    _replica: str

    def use(self, replica: str, client: RpcClient) -> None:
        """Use *client* for that replica."""
        self._replica = replica
        self._client = client
        self.watch(client.ended)

    def request(self, method: str, *arguments: Any) -> Future[Any]:
        """Call a method."""
        return self._client.request(method, *arguments)


class SocketTransport(ReplicaTransport):
    """Starts a replica's process, and ends it."""

    def begin(self, spec: ReplicaSpec) -> Future[Any]:
        """Start the process, which builds the replica."""
        packed = pack_spec(spec)
        ours, theirs = Pipe()  # the pipe has no name, so no other process can connect to it
        with theirs:
            # Its own process group: Ctrl-C in a terminal goes only to the parent, which stops its replicas.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "acme_sockets.replica", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        self.address = Address.new()
        self.use(spec.id, RpcClient(lambda: ours, spec.id))
        return self.request("listen", packed, self.address)

    def death(self, error: BaseException) -> BaseException:
        """Return the error for callers. Kill the process, which is useless without its connection."""
        self._process.kill()
        ended = f"its process ended with {self._process.wait()}"
        return ReplicaDiedError(f"replica {self._replica} is gone: {ended}", replica=self._replica)

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._client.close()
        self.address.remove()


class AttachedTransport(ReplicaTransport):
    """Calls a replica whose process another process starts and ends."""

    def start(self, spec: Any, receiver: Receiver) -> None:
        """Connect to a `ListedReplica`."""
        self.receiver = receiver
        self.use(spec.id, RpcClient(spec.address.connect, spec.id))

    def death(self, error: BaseException) -> BaseException:
        """Return the error for callers."""
        return ReplicaDiedError(f"replica {self._replica} is gone: {error}", replica=self._replica)
