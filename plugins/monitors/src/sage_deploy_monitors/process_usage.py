"""Measures the processor time and memory of this process."""

from __future__ import annotations

import os
import threading
import time
from functools import cache
from math import inf
from typing import Any, Final, NamedTuple

__all__ = ["ProcessUsage"]

#: Seconds for which a reading is reused: a status asks each replica of this process.
_SERVES_S: Final = 0.1

#: Minimum period of a reading in seconds, so that two readers in quick succession do not measure noise.
_WINDOW_S: Final = 1.0


class _Mark(NamedTuple):
    at: float
    cpu_s: float


def _now() -> _Mark:
    return _Mark(time.monotonic(), time.process_time())


class ProcessUsage:
    """
    Processor time and memory of this process. Thread-safe.

    Processor time comes from the interpreter, and counts from the creation of this object. Memory comes from psutil,
    which the first reading imports.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards the next two; re-entrant, because a signal handler may look
        self._before = self._last = _now()
        self._read: tuple[float, int, dict[str, Any]] = -inf, 0, {}  # time, process ID, and reading

    @staticmethod
    @cache
    def of_this_process() -> ProcessUsage:
        """Return the object that all services of this process share."""
        return ProcessUsage()

    def read(self) -> dict[str, Any]:
        """
        Return the resource use, measured at most 0.1 s ago.

        Returns:
            `pid`: the process.
            `cpu_percent`: percent of one core; above 100 if several cores were busy. The period begins at the last
            reading that is at least a second old, or when this object was created.
            `cpu_s`: all processor time so far.
            `memory_bytes`: resident set.
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
        # In a forked child, processor time starts at zero again.
        percent = max(0.0, 100 * (now.cpu_s - before.cpu_s) / elapsed) if elapsed > 0 else 0.0
        return {
            "pid": os.getpid(),
            "cpu_percent": percent,
            "cpu_s": now.cpu_s,
            "memory_bytes": psutil.Process().memory_info().rss,
        }
