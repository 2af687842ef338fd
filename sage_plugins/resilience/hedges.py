"""
Decides after which delay an unanswered call gets a second attempt.

A state machine without a clock. `routing.guarding.hedging` reports how long calls took, asks for the delay and makes
the second attempts. They share the budget of retries, in `retries.Retries`.

The delay is fixed, or the 95th percentile of the last `WINDOW` measured calls of the method. At most one call in
`EVERY_S` seconds is measured, to keep the cost low. With fewer than `LEAST` measured calls there is no second attempt,
because it is not known yet which calls are slow. Dean and Barroso, "The Tail at Scale" (2013), found that second
attempts after the 95th percentile add 5 % to the load and remove most of the tail.
"""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import Final

__all__ = ["EVERY_S", "LEAST", "P95", "WINDOW", "Delays"]

#: Stands for the 95th percentile, instead of a number of seconds.
P95: Final = "p95"

#: How many measured calls of a method are remembered.
WINDOW: Final = 200

#: Measured calls that the percentile needs: of 20 calls, one is slower.
LEAST: Final = 20

#: Shortest time between two measured calls of a method, in seconds.
EVERY_S: Final = 0.01


class _Method:
    __slots__ = ("delay", "measured_at", "seconds")

    def __init__(self) -> None:
        self.seconds: deque[float] = deque(maxlen=WINDOW)
        self.measured_at = float("-inf")
        self.delay: float | None = None


class Delays:
    """
    The delays of one service's methods.

    Thread-safe. If two threads report at the same time, one of the durations may be lost.
    """

    def __init__(self, delay: float | str) -> None:
        """
        Start without measured calls.

        Args:
            delay: Seconds, or `P95`.
        """
        self._fixed = None if isinstance(delay, str) else delay
        self._methods: dict[int, _Method] = {}

    def of(self, method: int) -> float | None:
        """Return the seconds from a call of *method* to its second attempt; None while that is not known."""
        if self._fixed is not None:
            return self._fixed
        known = self._methods.get(method)
        return None if known is None else known.delay

    def should_measure(self, method: int, now: float) -> bool:
        """Whether to measure a call of *method* that is made *now*. If so, the next `EVERY_S` seconds return False."""
        if self._fixed is not None:
            return False
        known = self._methods.get(method)
        if known is None:
            known = self._methods.setdefault(method, _Method())
        if now - known.measured_at < EVERY_S:
            return False
        known.measured_at = now
        return True

    def took(self, method: int, seconds: float) -> None:
        """Report that a measured call of *method* was answered after *seconds*."""
        known = self._methods[method]
        known.seconds.append(seconds)
        row = sorted(known.seconds)
        if len(row) >= LEAST:
            known.delay = row[ceil(0.95 * len(row)) - 1]
