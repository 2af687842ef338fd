"""The replica's process: `python -m sage_deploy_process.replica REQUESTS CALLS LIFELINE NAME`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from sage_deploy_process import lifeline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sage_deploy_remote.payloads.errors import PackedError
    from sage_deploy_remote.rpc.address import Address


def main(requests: int, calls: int, lifeline_fd: int) -> None:
    """
    Answer the parent's requests until it closes its end of the connection.

    Args:
        requests: File descriptor of the connection for requests.
        calls: File descriptor of the connection for calls.
        lifeline_fd: File descriptor of the lifeline.
    """
    for each in (requests, calls, lifeline_fd):
        os.set_inheritable(each, False)  # noqa: FBT003 - the signature of os; the service's children must not get it
    settings = lifeline.follow(lifeline_fd)
    settings.apply()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # a replica may be killed, so its output must not wait in a buffer
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr] # a TextIOWrapper

    # These imports need `sys.path` from the settings.
    from functools import partial
    from multiprocessing.connection import Connection
    from socket import socket

    from sage_deploy_remote.link.serving.endpoint import ReplicaEndpoint
    from sage_deploy_remote.rpc.server import RpcServer, in_threads, serve
    from sage_plugins.threads import start_thread

    class Replica(ReplicaEndpoint):
        """A replica that other processes reach at an address of its own."""

        address: Address | None = None

        def listen(self, packed: bytes, address: Address) -> tuple[int, PackedError | None]:
            """As `start`. Other processes can connect from now on."""
            self.address = address

            def prepare() -> None:
                RpcServer(address, in_threads(self), self.carry_calls)
                settings.limit_memory()

            return self.start(packed, None, prepare)

        def stop(self, grace: float) -> tuple[int, Mapping[str, Any] | None]:
            """As `ReplicaEndpoint.stop`. The parent kills this process afterwards, so this flushes its output."""
            stopped = super().stop(grace)
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
            return stopped

    replica = Replica()
    start_thread(partial(replica.carry_calls, socket(fileno=calls)), "calls")
    serve(Connection(requests), in_threads(replica))
    if replica.address is not None:
        replica.address.remove()
    os._exit(0)  # ends all threads that still run


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
