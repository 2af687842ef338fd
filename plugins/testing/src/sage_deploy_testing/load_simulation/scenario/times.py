"""Durations of methods, as distributions to draw from."""

from __future__ import annotations

from math import inf, isfinite, log
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

__all__ = ["Draw", "Time", "constant", "exponential", "lognormal", "recorded", "time_of"]

#: Draws the seconds that one run of a method takes.
Draw: TypeAlias = "Callable[[], float]"


class Time:
    """
    How long something takes.

    Attributes:
        text: The spelling on the command line.
        drawn_by: `drawn_by(random)` returns a function that draws seconds from *random*.
        mean: Mean seconds, or nan if it is not known.
    """

    __slots__ = ("drawn_by", "mean", "text")

    def __init__(self, text: str, drawn_by: Callable[[Random], Draw], mean: float = float("nan")) -> None:
        self.text = text
        self.drawn_by = drawn_by
        self.mean = mean

    def __repr__(self) -> str:
        return self.text


def constant(seconds: float) -> Time:
    """Return a constant time of *seconds*, 0 or more."""
    value = _seconds("seconds", seconds, may_be_zero=True)
    return Time(f"constant({value:g})", lambda _: lambda: value, value)


def exponential(mean: float) -> Time:
    """Return an exponential distribution with this *mean* in seconds: many short times and a few long ones."""
    value = _seconds("mean", mean)

    def drawn_by(random: Random) -> Draw:
        draw, rate = random.expovariate, 1 / value
        return lambda: draw(rate)

    return Time(f"exponential({value:g})", drawn_by, value)


def lognormal(median: float, sigma: float) -> Time:
    """
    Return a lognormal distribution. Durations of many real methods have this form, with a long tail.

    Args:
        median: Half of the runs take less. In seconds.
        sigma: Standard deviation of the logarithm. 0 is constant; with 1, the p99 is ten times the median.
    """
    from math import exp

    middle, spread = _seconds("median", median), _seconds("sigma", sigma, may_be_zero=True)

    def drawn_by(random: Random) -> Draw:
        draw, mu = random.lognormvariate, log(middle)
        return lambda: draw(mu, spread)

    return Time(f"lognormal({middle:g}, {spread:g})", drawn_by, middle * exp(spread * spread / 2))


def recorded(seconds: Iterable[float], name: str = "") -> Time:
    """
    Return a distribution of measured durations, each equally likely.

    Args:
        seconds: The durations in seconds; at least one.
        name: Where they come from, for the report.

    Raises:
        ValueError: There is none, or one is negative or infinite.
    """
    values = tuple(_seconds("a recorded duration", each, may_be_zero=True) for each in seconds)
    if not values:
        msg = "a recorded sample needs at least one duration"
        raise ValueError(msg)

    def drawn_by(random: Random) -> Draw:
        draw, many = random.random, len(values)
        return lambda: values[int(draw() * many)]

    return Time(f"recorded({name or f'{len(values)} durations'})", drawn_by, sum(values) / len(values))


def time_of(given: Time | float | Callable[[Random], float]) -> Time:
    """
    Return the `Time` for a value: a `Time`, a number of seconds, or a function that draws seconds from a `Random`.

    Raises:
        TypeError, ValueError: It is none of these, or not a duration.
    """
    if isinstance(given, Time):
        return given
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        return constant(given)
    if not callable(given):
        msg = f"a time is a number of seconds, lognormal(...) or its like, or a function of a Random; got {given!r}"
        raise TypeError(msg)
    drawn: Callable[[Random], float] = given
    return Time(getattr(given, "__name__", "own"), lambda random: lambda: drawn(random))


def _seconds(name: str, value: Any, *, may_be_zero: bool = False) -> float:
    number = float(value)
    if not isfinite(number) or not 0 <= number < inf or (number == 0 and not may_be_zero):
        msg = f"{name} must be {'0 or more' if may_be_zero else 'above 0'} and finite, got {value!r}"
        raise ValueError(msg)
    return number
