"""What this process uses of the machine."""

from __future__ import annotations

import os
import threading
import time
from functools import cache
from math import inf
from typing import Any, Final, NamedTuple

__all__ = ["ProcessUsage"]

#: Seconds for which a reading serves everybody: each replica of this process asks, in a status of all of them.
_SERVES_S: Final = 0.1

#: Seconds that a reading looks back at least, so that two readers who follow each other closely do not both read noise.
_WINDOW_S: Final = 1.0


class _Mark(NamedTuple):
    at: float
    cpu_s: float


def _now() -> _Mark:
    return _Mark(time.monotonic(), time.process_time())


class ProcessUsage:
    """
    Processor time and memory of this process; thread-safe.

    Processor time comes from the interpreter itself and counts from when this was made; memory comes from psutil, which
    is imported with the first reading.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards the next two; re-entrant, because a signal handler may look
        self._before = self._last = _now()
        self._read: tuple[float, int, dict[str, Any]] = -inf, 0, {}  # when and in which process, and what

    @staticmethod
    @cache
    def of_this_process() -> ProcessUsage:
        """The one that all services of this process share, as they share what it measures."""
        return ProcessUsage()

    def read(self) -> dict[str, Any]:
        """
        What is used.

        Returns:
            `pid`; `cpu_percent`: per cent of one core, over the time since the last reading that is at least a second
            old, or since this was made; more than 100 if several cores were busy; `cpu_s`: all processor time so far;
            `memory_bytes`: resident set. It may have been read up to 0.1 s ago.
        """
        at, pid, found = self._read
        if time.monotonic() - at >= _SERVES_S or pid != os.getpid():
            found = self._read_now()
            self._read = time.monotonic(), found["pid"], found
        return found

    def _read_now(self) -> dict[str, Any]:
        import psutil

        now = _now()
        with self._lock:
            if now.at - self._last.at >= _WINDOW_S:
                self._before, self._last = self._last, now
            before = self._before
        elapsed = now.at - before.at
        # In a forked child the processor time has begun anew.
        percent = max(0.0, 100 * (now.cpu_s - before.cpu_s) / elapsed) if elapsed > 0 else 0.0
        return {
            "pid": os.getpid(),
            "cpu_percent": percent,
            "cpu_s": now.cpu_s,
            "memory_bytes": psutil.Process().memory_info().rss,
        }
