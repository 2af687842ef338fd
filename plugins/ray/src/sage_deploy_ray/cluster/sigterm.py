"""
Keeps the handling of SIGTERM, whatever a library installs.

Ray replaces more than Python's handler. Its C++ part installs a handler that prints a stack, calls the previous
handler, and ends the process with SIGABRT 3 s later. A service that drains at SIGTERM could not finish. When Ray ends,
it leaves no handler at all.
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

#: Bytes for a `struct sigaction`, more than any platform needs (152 with glibc).
_SIGACTION_BYTES = 1024


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    """
    Restore the handling of SIGTERM after the block.

    Works in any thread, because `sigaction` does, unlike `signal.signal`. Only the main thread can change Python's own
    handler, so in another thread that handler does not change.
    """
    if os.name != "posix":
        yield
        return
    libc: Any = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(_SIGACTION_BYTES)
    known = libc.sigaction(int(signal.SIGTERM), None, before) == 0
    try:
        yield
    finally:
        if known:
            libc.sigaction(int(signal.SIGTERM), before, None)
