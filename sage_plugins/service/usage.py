"""Measures the calls and the memory of a replica, for the limits of `recycle`."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.interfaces import CallCounter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sage_plugins.interfaces import Recorder

__all__ = ["CALL_COUNT", "CallCount", "used"]

#: Key of a replica's `CallCount` among its recorders, if it has one.
CALL_COUNT: Final = "sage.recycle"

#: Linux's file with the memory of this process in pages; the second number is the resident pages.
_STATM: Final = Path("/proc/self/statm")


class CallCount:
    """A recorder that counts calls, for a replica without the monitor `metrics`."""

    def __init__(self) -> None:
        self._counts: list[list[int]] = []

    def writer(self) -> Callable[[int, int, float, float], None]:
        """As `Recorder.writer`."""
        count = [0]
        self._counts.append(count)

        def record(_method: int, _outcome: int, _wait_s: float, _run_s: float) -> None:
            count[0] += 1

        return record

    def counts(self) -> Mapping[str, int]:
        """As `CallCounter.counts`, but without counting errors."""
        return {"request_count": sum(count[0] for count in list(self._counts)), "error_count": 0}

    def snapshot(self) -> Mapping[str, int]:
        """Return the same as `counts`."""
        return self.counts()

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def used(recorders: Mapping[str, Recorder], limits: Mapping[str, Any]) -> dict[str, int | None]:
    """
    Return `calls` (calls that have ended) and `memory` (resident bytes of this process), for the limits of `recycle`.

    Args:
        recorders: The replica's recorders, by the ID of their monitor.
        limits: The field `recycle`. A value that has no limit is not measured, and is None.
    """
    counter = recorders.get("metrics") or recorders.get(CALL_COUNT)
    calls = None
    if limits.get("max_calls") is not None and isinstance(counter, CallCounter):
        calls = counter.counts()["request_count"]
    return {
        "calls": calls,
        "memory": None if limits.get("max_memory_mb") is None else _resident_bytes(),
    }


def _resident_bytes() -> int | None:
    """Return the resident memory of this process in bytes; None if it cannot be read."""
    with suppress(OSError, ValueError, IndexError):
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    with suppress(ImportError):
        import psutil

        found: int = psutil.Process().memory_info().rss
        return found
    return None
