"""
What happens at SIGTERM stays what it was, whatever a library installs.

Ray replaces more than Python's handler: its C++ part installs one underneath, which prints a stack, calls the handler
of before, and ends the process with SIGABRT 3 s later. A service that drains at SIGTERM would not get to its end. When
Ray ends, it leaves no handler at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["unchanged"]

#: More bytes than `struct sigaction` has anywhere (152 with glibc).
_ROOM = 1024


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    """
    Give SIGTERM back what it did before the block.

    From any thread: `signal.signal` is for the main thread alone, `sigaction` is not. Python's own handler is changed
    by the main thread only, so a block in another thread leaves that as it is.
    """
    if os.name != "posix":
        yield
        return
    libc: Any = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(_ROOM)
    known = libc.sigaction(int(signal.SIGTERM), None, before) == 0
    try:
        yield
    finally:
        if known:
            libc.sigaction(int(signal.SIGTERM), before, None)
