"""Loads of a simulation: which calls arrive, and when."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

import attrs

from sage_plugins.values import CallOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

__all__ = ["Keys", "Load", "Phase", "uniform", "zipf"]


@attrs.frozen
class Phase:
    """
    A period with a rate of calls that is constant or changes linearly.

    Attributes:
        rate: Calls a second at its start.
        to: Calls a second at its end.
        seconds: Its length in seconds.
    """

    rate: float
    to: float
    seconds: float

    def __attrs_post_init__(self) -> None:
        """Refuse values that are not a rate or a duration."""
        for rate in (self.rate, self.to):
            if not (isfinite(rate) and rate >= 0):
                msg = f"a rate is a number of calls a second, 0 or more, got {rate!r}"
                raise ValueError(msg)
        if not (isfinite(self.seconds) and self.seconds > 0):
            msg = f"a load lasts for a number of seconds above 0, got {self.seconds!r}"
            raise ValueError(msg)

    def __str__(self) -> str:
        """Return the phase as the command line spells it."""
        to = "" if self.to == self.rate else f"..{self.to:g}/s"
        return f"{self.rate:g}/s{to} for {self.seconds:g}s"


class Keys:
    """
    The keys of calls, for balancers that use them.

    Attributes:
        text: The spelling on the command line.
        drawn_by: `drawn_by(random)` returns a function that draws the number of a key.
    """

    def __init__(self, text: str, drawn_by: Callable[[Random], Callable[[], int]]) -> None:
        self.text = text
        self.drawn_by = drawn_by

    def __repr__(self) -> str:
        return self.text


def uniform(number: int) -> Keys:
    """Return *number* keys, all equally likely."""
    _check_number(number)

    def drawn_by(random: Random) -> Callable[[], int]:
        draw = random.random
        return lambda: int(draw() * number)

    return Keys(f"keys {number}", drawn_by)


def zipf(number: int, exponent: float = 1.0) -> Keys:
    """
    Return *number* keys, the first one most likely. The n-th has a probability proportional to `1 / n ** exponent`.

    Args:
        number: Number of keys.
        exponent: 0 makes all equally likely. 1 is Zipf's law, as observed for words and for entries of caches.
    """
    _check_number(number)
    if not 0 <= exponent < float("inf"):
        msg = f"the exponent of zipf must be 0 or more, got {exponent!r}"
        raise ValueError(msg)
    shares = list(accumulate(1 / rank**exponent for rank in range(1, number + 1)))

    def drawn_by(random: Random) -> Callable[[], int]:
        draw, total = random.random, shares[-1]
        return lambda: bisect(shares, draw() * total, hi=number - 1)

    return Keys(f"keys {number} zipf {exponent:g}", drawn_by)


def _check_number(number: Any) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        msg = f"a number of keys is an integer of 1 or more, got {number!r}"
        raise ValueError(msg)


@attrs.frozen
class Load:
    """
    Calls of one method from independent callers: a Poisson process, whatever the service does with the calls.

    Attributes:
        method: Its name.
        phases: The phases, in turn.
        keys: Keys of the calls; None for calls without keys.
        priority: Priority of the calls.
    """

    method: str
    phases: Sequence[Phase]
    keys: Keys | None = None
    priority: int = 0

    @property
    def seconds(self) -> float:
        """Its length in seconds."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def calls(self) -> float:
        """The expected number of calls."""
        return sum((phase.rate + phase.to) / 2 * phase.seconds for phase in self.phases)

    def __str__(self) -> str:
        """Return the load as the command line spells it."""
        keys = "" if self.keys is None else f", {self.keys}"
        priority = f", priority {self.priority}" if self.priority else ""
        return f"{self.method} {'; '.join(map(str, self.phases))}{keys}{priority}"

    def arrivals(self, random: Random) -> Iterator[float]:
        """Yield the times of the calls, in seconds since the start."""
        begin, draw = 0.0, random.expovariate
        for phase in self.phases:
            # A process of rate 1 in a time that passes as fast as calls arrive. This is exact also for a rate that
            # changes.
            passed, most = draw(1.0), (phase.rate + phase.to) / 2 * phase.seconds
            slope = (phase.to - phase.rate) / phase.seconds
            while passed < most:
                if slope:
                    at = 2 * passed / (phase.rate + sqrt(max(0.0, phase.rate**2 + 2 * slope * passed)))
                else:
                    at = passed / phase.rate
                yield begin + at
                passed += draw(1.0)
            begin += phase.seconds

    def options_drawn_by(self, random: Random) -> Callable[[], CallOptions]:
        """Return a function that draws the options of the next call."""
        if self.keys is None:
            none = CallOptions(priority=self.priority)
            return lambda: none
        draw = self.keys.drawn_by(random)
        made: dict[int, CallOptions] = {}

        def options() -> CallOptions:
            key = draw()
            found = made.get(key)
            if found is None:
                found = made[key] = CallOptions(key, priority=self.priority)
            return found

        return options
