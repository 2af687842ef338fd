"""
A pipe that ends a child process together with its parent.

The parent says over it how the child is to be set up, and then keeps its end open as long as it wants the child to
live. The kernel closes that end when the parent is gone, however that ended. On Linux the kernel then kills the child's
process group by itself: also if it is stopped, or if C code keeps all its threads from running. On other systems a
thread of the child waits for the end of the pipe.
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
    How a child is set up before it imports anything of the service.

    Attributes:
        path: Its `sys.path`, which is the parent's.
        cores: The cores that it runs on; empty for all.
        memory: Bytes of address space that the service gets; 0 for no limit.
    """

    path: list[str]
    cores: list[int]
    memory: int

    def apply(self) -> None:
        """Set this process up, but for its memory: see `limit_memory`. Call it before there is a second thread."""
        sys.path[:] = self.path
        if self.cores:
            os.sched_setaffinity(0, self.cores)

    def limit_memory(self) -> None:
        """Keep this process from having more memory, on Linux; what the interpreter has by now does not count."""
        if not self.memory or sys.platform != "linux":
            return
        import resource  # only some need it

        with open("/proc/self/statm", encoding="ascii") as sizes:  # noqa: PTH123 - pathlib is not imported here
            pages = int(sizes.read().split()[0])
        most = pages * resource.getpagesize() + self.memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def write(descriptor: int, settings: Settings) -> None:
    """
    Tell a child how it is to be set up; for the parent.

    Raises:
        OSError: The child has ended.
    """
    rest = memoryview(json.dumps(settings).encode() + b"\n")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def follow(descriptor: int) -> Settings:
    """Read what the parent has said, and end with it from now on; for the child, which ends at once if that is gone."""
    said = b""
    while not said.endswith(b"\n"):
        more = os.read(descriptor, 65536)
        if not more:
            os._exit(0)
        said += more
    _end_with(descriptor)
    return Settings(*json.loads(said))


def _end_with(descriptor: int) -> None:
    if hasattr(fcntl, "F_SETSIG") and os.getpgrp() == os.getpid():
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
        if select.select([descriptor], [], [], 0)[0]:  # the parent ended before there was a signal for it
            os._exit(0)
    else:
        threading.Thread(target=_wait, args=(descriptor,), name="lifeline", daemon=True).start()


def _wait(descriptor: int) -> None:
    os.read(descriptor, 1)
    os._exit(0)
