"""Runs every contender in every round, so that only results of the same round are compared."""

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
    """Return the seconds on *clock* for one of *number* calls of *run*, after a tenth as many calls to warm up."""
    for _ in range(number // 10):
        run()
    repeat = range(number)
    start = clock()
    for _ in repeat:
        run()
    return (clock() - start) / number


def interleave(contenders: Mapping[_Name, Callable[[], float]], rounds: int) -> dict[_Name, list[float]]:
    """
    Return the measurements of each contender in *rounds* rounds, after one round to warm up.

    Each round has another order, which is the same in every run. So no contender always runs after the same other one,
    whose work affects the cost of waking a thread.
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
    """Return the median, lowest and highest ratio *ours* / *peer* of a round."""
    ratios = [mine / theirs for mine, theirs in zip(measured[ours], measured[peer], strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)
