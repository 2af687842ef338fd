"""Interleaved rounds: every contender runs in every round, and only ratios within a round are compared."""

from __future__ import annotations

import gc
import random
import statistics
import sys
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_Name = TypeVar("_Name")

__all__ = ["interleave", "per_call", "ratio"]


def per_call(run: Callable[[], object], number: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds on *clock* for one of *number* calls of *run* in a loop, after a tenth as many that do not count."""
    for _ in range(number // 10):
        run()
    repeat = range(number)
    start = clock()
    for _ in repeat:
        run()
    return (clock() - start) / number


def interleave(contenders: Mapping[_Name, Callable[[], float]], rounds: int) -> dict[_Name, list[float]]:
    """
    What each contender measured in each of *rounds* rounds, after one round that does not count.

    Each round has another order, the same in every run, so that none always runs in the same other's wake: what waking
    a thread costs depends on what the processors did just before.
    """
    names = list(contenders)
    measured: dict[_Name, list[float]] = {name: [] for name in names}
    shuffle = random.Random(rounds).shuffle  # noqa: S311 - an order, not a secret
    for number in range(rounds + 1):
        shuffle(names)
        for name in names:
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
