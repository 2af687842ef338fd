"""Parses loads, times and faults from the command line."""

from __future__ import annotations

import json
import re
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sage_deploy_testing.load_simulation.scenario.faults import Fault, FaultKind
from sage_deploy_testing.load_simulation.scenario.loads import Keys, Phase, uniform, zipf
from sage_deploy_testing.load_simulation.scenario.times import Time, constant, exponential, lognormal, recorded
from sage_plugins.config.units import duration
from sage_plugins.texts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["faults_of", "load_of", "seconds_of", "time_of_method"]

LOADS: Final = (
    "'200/s for 60s', '100/s..1000/s for 60s', 'get 200/s for 30s; 500/s for 30s, keys 1000 zipf 1.1', "
    "'get 5/s for 60s, priority 2'"
)
TIMES: Final = (
    "'get=5ms', 'get=exponential(10ms)' with the mean, 'get=lognormal(10ms, 0.8)' with the median and sigma, "
    "'get=recorded(FILE)'; without 'get=' for all methods"
)
FAULTS: Final = (
    "'crash at 20s', 'slow x10 replica 3 at 10s for 20s', 'hang replica 0 at 10s for 5s', 'node 1 at 30s for 60s', "
    "'drop 5% at 10s for 20s'; separate several by ';'"
)

_RATE: Final = r"([0-9.]+)/s"
_PHASE: Final = re.compile(rf"{_RATE}(?:\s*\.\.\s*{_RATE})?\s+for\s+(\S+)")
_LOAD: Final = re.compile(
    r"(?:([A-Za-z_]\w*)\s+)?([0-9][^,]*)(?:,\s*keys\s+(\d+)(?:\s+zipf\s+([0-9.]+))?)?"
    r"(?:,\s*priority\s+(-?\d+))?"
)
_TIME: Final = re.compile(r"(?:([A-Za-z_]\w*)\s*=\s*)?(constant|exponential|lognormal|recorded)\s*\((.+)\)")
_CONSTANT: Final = re.compile(r"(?:([A-Za-z_]\w*)\s*=\s*)?([0-9]\S*)")
_FAULT: Final = re.compile(
    r"(crash|slow|hang|node|drop)(?:\s+x([0-9.]+))?(?:\s+([0-9.]+)%)?(?:\s+(\d+))?"
    r"(?:\s+(replica|node)\s+(\d+))?\s+at\s+(\S+)(?:\s+for\s+(\S+))?"
)


def seconds_of(text: str) -> float:
    """
    Return the seconds of a duration: `"250ms"`, `"1m30s"`, or a number of seconds.

    Raises:
        ValueError: It is not a duration.
    """
    found = duration(text.strip())
    if found is None:
        try:
            found = float(text)
        except ValueError:
            msg = f"{text.strip()!r} is no duration: write 250ms, 30s, 1m30s, or a number of seconds"
            raise ValueError(msg) from None
    return found


def load_of(text: str) -> tuple[str | None, Sequence[Phase], Keys | None, int]:
    """
    Return method, phases, keys and priority of a load. Method and keys are None if the text has none.

    Raises:
        ValueError: It is not a load. The message shows the format.
    """
    found = _LOAD.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no load. Loads look so: {LOADS}")
    method, phases, keys, exponent, priority = found.groups()
    made = []
    for each in phases.split(";"):
        phase = _PHASE.fullmatch(each.strip())
        if phase is None:
            raise ValueError(f"{each.strip()!r} is no load. Loads look so: {LOADS}")
        rate, to, lasts = phase.groups()
        made.append(Phase(_number(rate), _number(rate if to is None else to), seconds_of(lasts)))
    drawn = None
    if keys is not None:
        drawn = uniform(int(keys)) if exponent is None else zipf(int(keys), _number(exponent))
    return method, made, drawn, int(priority or 0)


def time_of_method(text: str) -> tuple[str, Time]:
    """
    Return a method, or `"*"` for all, and how long it takes.

    Raises:
        ValueError: It is not a time, and the message shows the format. Or the file of a sample cannot be read.
    """
    fixed = _CONSTANT.fullmatch(text.strip())
    if fixed is not None:
        return fixed[1] or "*", constant(seconds_of(fixed[2]))
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no time of a method. Times look so: {TIMES}")
    method, kind, inner = found[1] or "*", found[2], found[3].strip()
    if kind == "recorded":
        return method, recorded(_sample(Path(inner)), inner)
    given = [each.strip() for each in inner.split(",")]
    wanted = 2 if kind == "lognormal" else 1
    if len(given) != wanted:
        raise ValueError(f"{text!r}: {kind} has {counted(wanted, 'value')} in brackets. Times look so: {TIMES}")
    if kind == "lognormal":
        return method, lognormal(seconds_of(given[0]), _number(given[1]))
    return method, (constant if kind == "constant" else exponential)(seconds_of(given[0]))


def _sample(file: Path) -> Iterator[float]:
    """Yield the durations in a file. Each line is a duration, or a JSON object with `seconds`."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the sample {file} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        try:
            yield float(json.loads(text)["seconds"]) if text.startswith("{") else seconds_of(text)
        except (ValueError, KeyError, TypeError) as error:
            msg = f'{file}, line {number}: write a duration such as 0.012 or 12ms, or {{"seconds": 0.012}}'
            raise ValueError(msg) from error


def faults_of(text: str) -> list[Fault]:
    """
    Return the faults of a text that separates them by `;`.

    Raises:
        ValueError: One is not a fault. The message shows the format.
    """
    return [_fault(each.strip()) for each in text.split(";") if each.strip()]


def _fault(text: str) -> Fault:
    found = _FAULT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no fault. Faults look so: {FAULTS}")
    kind, factor, share, own, whose, number, at, lasts = found.groups()
    fits = {
        "factor": factor is None or kind == FaultKind.SLOW,
        "share": share is None or kind == FaultKind.DROP,
        "node": (own is not None) == (kind == FaultKind.NODE) and not (own and whose),
    }
    if not all(fits.values()):
        raise ValueError(f"{text!r} is no fault. Faults look so: {FAULTS}")
    node = own if own is not None else number if whose == "node" else None
    return Fault(
        kind=FaultKind(kind),
        at=seconds_of(at),
        seconds=inf if lasts is None else seconds_of(lasts),
        replica=int(number) if whose == "replica" else None,
        node=None if node is None else int(node),
        factor=10.0 if factor is None else _number(factor),
        share=1.0 if share is None else _number(share) / 100,
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None
