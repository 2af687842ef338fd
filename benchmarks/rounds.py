"""Interleaved rounds: every contender runs in every round, and only ratios within a round are compared."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["interleave", "per_call", "ratio"]


def per_call(run: Callable[[], object], number: int) -> float:
    """Seconds for one of *number* calls of *run* in a loop."""
    repeat = range(number)
    start = time.perf_counter()
    for _ in repeat:
        run()
    return (time.perf_counter() - start) / number


def interleave(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """
    What each contender measured in each of *rounds* rounds, after one round that does not count.

    The order turns by one from round to round, so that none always runs in another's wake.
    """
    names = list(contenders)
    measured: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            gc.collect()
            value = contenders[name]()
            if number:
                measured[name].append(value)
        print(f"\r  round {number}/{rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return measured


def ratio(measured: Mapping[str, list[float]], ours: str, peer: str) -> tuple[float, float, float]:
    """Median, lowest and highest of the per-round ratios *ours* / *peer*."""
    ratios = [mine / theirs for mine, theirs in zip(measured[ours], measured[peer], strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)
