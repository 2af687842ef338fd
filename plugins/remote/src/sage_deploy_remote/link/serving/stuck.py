"""
Ends the replica's process when a call runs on after its deadline, for services with `timeout_strength: kill`.

The process that started the replica kills it itself, at once. This is for callers in other processes, which cannot.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sage_deploy_remote.link.serving.server import ReplicaServer
    from sage_plugins.call.call import Call

__all__ = ["end_if_stuck"]

#: Seconds that a call gets to end after its deadline.
_ENDS_WITHIN_S: Final = 1.0


def end_if_stuck(server: ReplicaServer, call: Call) -> None:
    """The time of *call* is over: if it still has its slot in a second, end this process, where that is asked for."""
    if server.spec.config.timeout_strength != "kill":
        return
    holder = call.chain[-1]

    def look() -> None:
        if holder in server._holders:  # noqa: SLF001 - the server has no use for another method
            os.kill(os.getpid(), signal.SIGKILL)

    server.clock.call_at(server.clock.monotonic() + _ENDS_WITHIN_S, look)
