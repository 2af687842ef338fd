"""Which calls come, and when."""

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
    A stretch of time with a rate of calls that is constant or goes up or down evenly.

    Attributes:
        rate: Calls a second at its beginning.
        to: Calls a second at its end.
        seconds: How long it is.
    """

    rate: float
    to: float
    seconds: float

    def __attrs_post_init__(self) -> None:
        """Refuse what is no rate or no duration."""
        for rate in (self.rate, self.to):
            if not (isfinite(rate) and rate >= 0):
                msg = f"a rate is a number of calls a second, 0 or more, got {rate!r}"
                raise ValueError(msg)
        if not (isfinite(self.seconds) and self.seconds > 0):
            msg = f"a load lasts for a number of seconds above 0, got {self.seconds!r}"
            raise ValueError(msg)

    def __str__(self) -> str:
        """As the command line spells it."""
        to = "" if self.to == self.rate else f"..{self.to:g}/s"
        return f"{self.rate:g}/s{to} for {self.seconds:g}s"


class Keys:
    """
    The keys of calls, for balancers that look at them.

    Attributes:
        text: As the command line spells it.
        drawn_by: `drawn_by(random)` gives a function that draws the number of a key.
    """

    def __init__(self, text: str, drawn_by: Callable[[Random], Callable[[], int]]) -> None:
        """Set the attributes."""
        self.text = text
        self.drawn_by = drawn_by

    def __repr__(self) -> str:
        """How it is spelt."""
        return self.text


def uniform(number: int) -> Keys:
    """So many keys, all equally likely."""
    _check_number(number)

    def drawn_by(random: Random) -> Callable[[], int]:
        draw = random.random
        return lambda: int(draw() * number)

    return Keys(f"keys {number}", drawn_by)


def zipf(number: int, exponent: float = 1.0) -> Keys:
    """
    So many keys, the first one most likely: the probability of the n-th is proportional to `1 / n ** exponent`.

    Args:
        number: How many there are.
        exponent: 0 makes all equally likely; 1 is Zipf's law, as it is seen for words and for entries of caches.
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
    Calls of one method from independent callers: a Poisson process, whatever the service does with them.

    Attributes:
        method: Which method.
        phases: One after the other.
        keys: Of the calls; None for calls without.
        priority: Of the calls.
    """

    method: str
    phases: Sequence[Phase]
    keys: Keys | None = None
    priority: int = 0

    @property
    def seconds(self) -> float:
        """How long it is."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def calls(self) -> float:
        """How many there are likely to be."""
        return sum((phase.rate + phase.to) / 2 * phase.seconds for phase in self.phases)

    def __str__(self) -> str:
        """As the command line spells it."""
        keys = "" if self.keys is None else f", {self.keys}"
        priority = f", priority {self.priority}" if self.priority else ""
        return f"{self.method} {'; '.join(map(str, self.phases))}{keys}{priority}"

    def arrivals(self, random: Random) -> Iterator[float]:
        """When the calls come, in seconds since its beginning."""
        begin, draw = 0.0, random.expovariate
        for phase in self.phases:
            # A process of rate 1, on a time that goes by as fast as calls come: exact for a rate that changes, too.
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
        """What draws the options of the next call."""
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
