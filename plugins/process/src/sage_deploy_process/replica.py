"""The replica's process, `python -m sage_deploy_process.replica REQUESTS CALLS LIFELINE NAME`."""

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


def main(requests: int, calls: int, tie: int) -> None:
    """
    Answer the process that started this one until it closes its end of the connection for requests.

    Args:
        requests: Of the connection for requests.
        calls: Of the connection for calls.
        tie: Of the lifeline.
    """
    for each in (requests, calls, tie):
        os.set_inheritable(each, False)  # noqa: FBT003 - as os has it; children of the service do not get them
    settings = lifeline.follow(tie)
    settings.apply()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # what a service prints is to be seen when it does so, and it may be killed
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr] # a TextIOWrapper

    # Not before: where these modules lie, the settings say.
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
            """As `start`; other processes may connect from now on."""
            self.address = address
            RpcServer(address, in_threads(self), self.carry_calls)
            settings.limit_memory()
            return self.start(packed, None)

        def stop(self, grace: float) -> tuple[int, Mapping[str, Any] | None]:
            """As `ReplicaEndpoint.stop`; then this process is killed."""
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
    os._exit(0)  # whatever still runs ends with the process


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
