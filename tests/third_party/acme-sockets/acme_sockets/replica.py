"""The replica's process, `python -m acme_sockets.replica DESCRIPTOR`. It ends with the process that started it."""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from sage_deploy_remote.link.serving.endpoint import ReplicaEndpoint
from sage_deploy_remote.rpc.server import RpcServer, in_threads, serve

if TYPE_CHECKING:
    from sage_deploy_remote.payloads.errors import PackedError
    from sage_deploy_remote.rpc.address import Address


class Replica(ReplicaEndpoint):
    """A replica that other processes reach at its own address."""

    address: Address | None = None

    def listen(self, packed: bytes, address: Address) -> tuple[int, PackedError | None]:
        """Start the replica. From now on, other processes may connect."""
        self.address = address
        RpcServer(address, in_threads(self))
        return self.start(packed, None)


def main(descriptor: int) -> None:
    """Answer the process that started this one, until its end of the pipe closes. That also happens if it is killed."""
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - the API of os; the service's children do not inherit it
    replica = Replica()
    serve(Connection(descriptor), in_threads(replica))
    if replica.address is not None:
        replica.address.remove()
    sys.stdout.flush()
    os._exit(0)  # everything that still runs ends with the process


if __name__ == "__main__":
    main(int(sys.argv[1]))
