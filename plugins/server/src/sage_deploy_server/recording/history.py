"""Recorded values of each service and of all services together, every second, every 10 s and every minute."""

from __future__ import annotations

import threading
import time
from array import array
from math import inf, nan
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_server.recording.rings import FIELDS, Ring
from sage_deploy_server.recording.sample import percentiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sage_deploy_server.recording.sample import Sample

__all__ = ["LONGEST_S", "History"]

#: (seconds between rows, number of rows kept): 15 minutes, 3 hours, 24 hours.
_TIERS: Final = ((1, 900), (10, 1080), (60, 1440))

#: Seconds of history that are kept.
LONGEST_S: Final = 86_400


class _Tier:
    """The rows of every service at one interval. The key None is for all services together."""

    def __init__(self, every: int, length: int) -> None:
        self.every = every
        self.length = length
        self._rings: dict[str | None, Ring] = {}
        self._last_number = -10  # long before the first row
        self._last_samples: Mapping[str | None, Sample] = {}
        self._last_write = -inf

    def write(self, now: float, samples: Mapping[str | None, Sample]) -> dict[str | None, array[float]]:
        """Record *samples* taken *now*. Returns the new rows, or none if it is too early for the next ones."""
        number, seconds = int(now // self.every), now - self._last_write
        if number <= self._last_number or seconds < self.every / 2:
            return {}
        rows = {name: _row(self._last_samples.get(name), sample, seconds) for name, sample in samples.items()}
        # A reader that looks each second is sometimes a little late. Without this, a whole row would be missing.
        first = number - 1 if self._last_number == number - 2 else number
        for name, row in rows.items():
            ring = self._rings.get(name)
            if ring is None:
                ring = self._rings[name] = Ring(self.length)
            for each in range(first, number + 1):
                ring.write(each, row)
        for name in self._rings.keys() - rows.keys():
            del self._rings[name]
        self._last_number, self._last_samples, self._last_write = number, samples, now
        return rows

    def read(self, name: str | None, now: float, rows: int) -> tuple[int, dict[str, list[float | None]]]:
        """Return the last *rows* rows until *now*: the number of the first row, and the values by field."""
        last = int(now // self.every)
        first = last - rows + 1
        ring = self._rings.get(name)
        if ring is None:
            return first, {field: [None] * rows for field in FIELDS}
        return first, ring.read(first, last)


def _row(before: Sample | None, now: Sample, seconds: float) -> array[float]:
    if before is None:
        return array("f", [nan] * 5 + [now.queue, now.inflight, now.slots])
    was, call_counts = before.call_counts, now.call_counts
    rejected = call_counts.rejected - was.rejected
    calls = max(0.0, call_counts.calls - was.calls + rejected)
    errors = max(0.0, call_counts.errors - was.errors + rejected)
    percentile_values = percentiles(was, call_counts)
    return array("f", [calls / seconds, errors / seconds, *percentile_values, now.queue, now.inflight, now.slots])


class History:
    """
    Recorded values of the last 24 hours. Thread-safe.

    A row contains the calls that ended since the previous row, their durations, and the state of the service at that
    time. A removed service is forgotten.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        """Start empty. *monotonic* and *wall* return the time in seconds."""
        self._monotonic = monotonic
        self._wall = wall
        self._began = monotonic()
        self._tiers = tuple(_Tier(*each) for each in _TIERS)
        self._latest: dict[str | None, array[float]] = {}
        self._lock = threading.Lock()  # guards all fields that change

    def record(self, samples: Mapping[str | None, Sample]) -> None:
        """Record *samples* taken now, by service. The key None is for all services together."""
        with self._lock:
            now = self._monotonic() - self._began
            finest, *others = self._tiers
            self._latest = finest.write(now, samples) or self._latest
            for tier in others:
                tier.write(now, samples)

    def rates(self, service: str) -> tuple[float | None, float | None]:
        """
        Return the calls and errors per second, between the last two records that were a second apart. None before that.

        Both include rejected calls.
        """
        row = self._latest.get(service)
        if row is None or row[0] != row[0]:
            return None, None
        return round(row[0], 6), round(row[1], 6)

    def read(self, seconds: float, service: str | None = None) -> dict[str, Any]:
        """
        Return the last *seconds*, at most `LONGEST_S`, of a service or of all services together.

        Returns:
            `every`: seconds between values; `times`: seconds since the epoch; and each of `FIELDS`, with None where
            nothing was recorded.
        """
        with self._lock:
            now = self._monotonic() - self._began
            tier = next(each for each in self._tiers if each.every * each.length >= seconds)
            first, values = tier.read(service, now, max(1, round(seconds / tier.every)))
        rows = len(values[FIELDS[0]])
        # Counted back from now, so a change of the wall clock does not change the distance between rows.
        epoch = round(self._wall() - now, 3)
        times = [epoch + number * tier.every for number in range(first, first + rows)]
        return {"every": tier.every, "times": times, **values}
