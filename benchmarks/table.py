"""Prints each contender's times or rates, and the ratios that have goals."""

from __future__ import annotations

import argparse
import statistics
from typing import TYPE_CHECKING

from rounds import ratio

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["goal", "rounds_asked", "show"]


def rounds_asked(description: str | None, default: int) -> int:
    """Return the number of rounds from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=default, help="default: %(default)s")
    rounds: int = parser.parse_args().rounds
    return rounds


def show(title: str, measured: Mapping[str, list[float]], scale: float = 1e6) -> None:
    """Print the median, lowest and highest measurement of each contender, times *scale*."""
    print(title)
    for name, values in measured.items():
        low, middle, high = (value * scale for value in (min(values), statistics.median(values), max(values)))
        print(f"  {name:<24} {middle:10.2f}  [{low:.2f} .. {high:.2f}]")


def goal(measured: Mapping[str, list[float]], ours: str, peer: str, wanted: str = "") -> None:
    """Print the ratio *ours* / *peer*, and its goal if there is one."""
    middle, low, high = ratio(measured, ours, peer)
    print(f"  {ours} / {peer}: {middle:.2f}  [{low:.2f} .. {high:.2f}]" + (f"  (goal {wanted})" if wanted else ""))
