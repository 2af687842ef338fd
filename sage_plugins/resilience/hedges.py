"""
After which time a call that is not answered gets a second attempt.

A state machine without a clock: it is told how long calls took, and asked for the delay. `routing.guarding.hedging`
does the rest. `retries.Retries` has the budget, which second attempts share with retries.

The delay is fixed, or the time within which 95 % of the calls of the method were answered: the 95th percentile of the
last `WINDOW` calls that were measured. At most one call in `EVERY_S` seconds is, so that measuring costs little. While
fewer than `LEAST` are known there is no second attempt: nobody knows what is slow. Dean and Barroso, "The Tail at
Scale" (2013), found that second attempts after the 95th percentile add 5 % to the load and remove most of the tail.
"""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import Final

__all__ = ["EVERY_S", "LEAST", "P95", "WINDOW", "Delays"]

#: In place of a number of seconds.
P95: Final = "p95"

#: Calls of a method that are remembered.
WINDOW: Final = 200

#: Calls that must be known before the percentile says something: of 20 one is slower.
LEAST: Final = 20

#: Seconds between two calls of a method that are measured, at least.
EVERY_S: Final = 0.01


class _Method:
    __slots__ = ("delay", "measured_at", "seconds")

    def __init__(self) -> None:
        self.seconds: deque[float] = deque(maxlen=WINDOW)
        self.measured_at = float("-inf")
        self.delay: float | None = None


class Delays:
    """
    The delays of the methods of one service.

    Safe from any thread: two that tell at the same time may lose one of the durations.
    """

    def __init__(self, delay: float | str) -> None:
        """
        Know of no call.

        Args:
            delay: Seconds, or `P95`.
        """
        self._fixed = None if isinstance(delay, str) else delay
        self._methods: dict[int, _Method] = {}

    def of(self, method: int) -> float | None:
        """Seconds from a call of *method* to its second attempt; None while that is not known."""
        if self._fixed is not None:
            return self._fixed
        known = self._methods.get(method)
        return None if known is None else known.delay

    def wants(self, method: int, now: float) -> bool:
        """Whether a call of *method* that is made *now* is to be measured."""
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
        """A call of *method* that was measured was answered after *seconds*."""
        known = self._methods[method]
        known.seconds.append(seconds)
        row = sorted(known.seconds)
        if len(row) >= LEAST:
            known.delay = row[ceil(0.95 * len(row)) - 1]
