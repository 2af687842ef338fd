"""What a replica has used up by now, for a service that recycles its replicas: calls, memory."""

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

#: Among the recorders of a replica: its `CallCount`, if it has one.
CALL_COUNT: Final = "sage.recycle"

#: Where Linux says how many pages of memory this process has; the second number is the resident ones.
_STATM: Final = Path("/proc/self/statm")


class CallCount:
    """A recorder that counts calls, for a replica without the monitor `metrics`."""

    def __init__(self) -> None:
        """Have counted none."""
        self._counts: list[list[int]] = []

    def writer(self) -> Callable[[int, int, float, float], None]:
        """`record`, for one worker."""
        count = [0]
        self._counts.append(count)

        def record(_method: int, _outcome: int, _wait_s: float, _run_s: float) -> None:
            count[0] += 1

        return record

    def counts(self) -> Mapping[str, int]:
        """As `CallCounter.counts`; errors are not told apart."""
        return {"request_count": sum(count[0] for count in list(self._counts)), "error_count": 0}

    def snapshot(self) -> Mapping[str, int]:
        """The same."""
        return self.counts()

    def close(self) -> None:
        """There is nothing to let go of."""


def used(recorders: Mapping[str, Recorder], limits: Mapping[str, Any]) -> dict[str, int | None]:
    """
    What the limits of `recycle` are about: `calls` that have ended, and `memory`, the resident bytes of this process.

    Args:
        recorders: Those of the replica, by the ID of their monitor.
        limits: The field `recycle`. What it does not limit is not measured, and None.
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
    """The resident memory of this process; None if this machine does not say."""
    with suppress(OSError, ValueError, IndexError):
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    with suppress(ImportError):
        import psutil

        found: int = psutil.Process().memory_info().rss
        return found
    return None
