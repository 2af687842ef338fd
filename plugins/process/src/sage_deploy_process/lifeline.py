"""
A pipe that ends a child process together with its parent.

The parent sends the child's settings over it. Then it keeps its end open as long as the child should live. When the
parent ends, for any reason, the kernel closes that end. On Linux the kernel then kills the child's process group, even
if the child is stopped or C code blocks all its threads. On other systems, a thread of the child waits for the end of
the pipe.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sys
import threading
from typing import NamedTuple

__all__ = ["Settings", "follow", "write"]


class Settings(NamedTuple):
    """
    Settings of a child, applied before it imports anything of the service.

    Attributes:
        path: Its `sys.path`, copied from the parent.
        cores: Cores that it runs on; empty for all.
        memory: Address space for the service, in bytes; 0 for no limit.
    """

    path: list[str]
    cores: list[int]
    memory: int

    def apply(self) -> None:
        """Apply the settings except the memory limit; see `limit_memory`. Call this while there is only one thread."""
        sys.path[:] = self.path
        if self.cores:
            os.sched_setaffinity(0, self.cores)

    def limit_memory(self) -> None:
        """
        Limit this process's memory, on Linux. What the interpreter already uses does not count.

        Raises:
            ValueError: The program itself may not take so much.
        """
        if not self.memory or sys.platform != "linux":
            return
        import resource  # most processes do not need it

        with open("/proc/self/statm", encoding="ascii") as sizes:  # noqa: PTH123 - pathlib is not imported here
            pages = int(sizes.read().split()[0])
        most = pages * resource.getpagesize() + self.memory
        allowed = resource.getrlimit(resource.RLIMIT_AS)[1]
        if allowed != resource.RLIM_INFINITY and most > allowed:
            msg = (
                f"memory_mb is {self.memory >> 20}, but this machine lets the program's processes take {allowed >> 20} "
                "MiB in all. Raise that limit (ulimit -v), or lower memory_mb"
            )
            raise ValueError(msg)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def write(descriptor: int, settings: Settings) -> None:
    """
    Send a child its settings. For the parent.

    Raises:
        OSError: The child has ended.
    """
    rest = memoryview(json.dumps(settings).encode() + b"\n")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def follow(descriptor: int) -> Settings:
    """
    Read the parent's settings, and tie this process to the parent. For the child.

    Ends the process at once if the parent is gone.
    """
    received = b""
    while not received.endswith(b"\n"):
        more = os.read(descriptor, 65536)
        if not more:
            os._exit(0)
        received += more
    _end_with_parent(descriptor)
    return Settings(*json.loads(received))


def _end_with_parent(descriptor: int) -> None:
    if hasattr(fcntl, "F_SETSIG") and os.getpgrp() == os.getpid():
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
        if select.select([descriptor], [], [], 0)[0]:  # the parent ended before the signal was set up
            os._exit(0)
    else:
        threading.Thread(target=_wait_for_parent, args=(descriptor,), name="lifeline", daemon=True).start()


def _wait_for_parent(descriptor: int) -> None:
    os.read(descriptor, 1)
    os._exit(0)
