"""
Reads durations and sizes with units: `250ms`, `1h30m`, `4Gi`.

Files and Python accept the same spellings. A duration becomes a number of seconds, and a size a number of MiB.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.config.field_checks import FieldInfo, Wrong, shown
from sage_plugins.values import Problem

if TYPE_CHECKING:
    from sage_plugins.config.field_checks import Unit

__all__ = ["PATTERNS", "UNIT_WORDS", "duration", "number_of", "size", "without_units"]

# In Python, `$` also matches before a final newline; in JSON Schema it does not. The last part makes both refuse it.
_DURATION: Final = (
    r"^(?=[0-9])([0-9]+(\.[0-9]+)?d)?([0-9]+(\.[0-9]+)?h)?([0-9]+(\.[0-9]+)?m)?([0-9]+(\.[0-9]+)?s)?"
    r"([0-9]+(\.[0-9]+)?ms)?$(?!\n)"
)
_SIZE: Final = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti)$(?!\n)"

_SECONDS: Final = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_MEBIBYTES: Final = {"Ki": 1 / 1024, "Mi": 1.0, "Gi": 1024.0, "Ti": 1024.0 * 1024.0}
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|d|h|m|s)")
#: For each unit, a regular expression that matches all its spellings, in Python and in JSON Schema.
PATTERNS: Final[Mapping[Unit, str]] = {"seconds": _DURATION, "MiB": _SIZE}
#: For each unit, its spellings in words, with examples.
UNIT_WORDS: Final[Mapping[Unit, str]] = {
    "seconds": "a duration such as 250ms, 30s or 1h30m",
    "MiB": "a size such as 512Mi or 4Gi",
}
_HINTS: Final[Mapping[Unit, str]] = {
    "seconds": "write the number of seconds, or a duration such as 250ms, 30s, 2m or 1h30m",
    "MiB": "write the number of MiB, or a size such as 512Mi or 4Gi",
}
_WORDS: Final[Mapping[Unit, str]] = {"seconds": "a duration", "MiB": "a size"}
#: Maximum length of a duration or size. Longer texts are refused without matching.
_LONGEST: Final = 60


def duration(text: str) -> float | None:
    """Return the seconds of a duration such as `"250ms"`, `"2m"` or `"1h30m"`; None if *text* is no duration."""
    if len(text) > _LONGEST or not re.fullmatch(_DURATION, text):
        return None
    parts = [float(number) * _SECONDS[unit] for number, unit in _PART.findall(text)]
    # Rounding removes the floating-point noise of the sum.
    return round(sum(parts), 9)


def size(text: str) -> float | None:
    """Return the MiB of a size such as `"512Mi"` or `"4Gi"`; None if *text* is no size."""
    if len(text) > _LONGEST or not re.fullmatch(_SIZE, text):
        return None
    return float(text[:-2]) * _MEBIBYTES[text[-2:]]


def without_units(info: FieldInfo, key: str, value: Any) -> tuple[Any, list[Problem]]:
    """
    Return the value with durations and sizes as numbers, and the problems of texts that are neither.

    Args:
        info: Declaration of the value. Only declared keys of mappings are converted.
        key: Path of the value, for the problems.
        value: The value as a file or a caller has it. It is not changed; changed mappings are copies.
    """
    if info.unit and isinstance(value, str) and value not in info.choices:
        number, problem = number_of(info, key, value)
        return (value, [problem]) if problem is not None else (number, [])
    if isinstance(value, Mapping) and info.keys:
        if info.kind == "methods":
            each = FieldInfo(name=info.name, kind="mapping", doc="", keys=info.keys)
            return _members(dict.fromkeys(value, each), key, value)
        return _members(info.keys, key, value)
    return value, []


def _members(declared: Mapping[str, FieldInfo], key: str, value: Mapping[str, Any]) -> tuple[Any, list[Problem]]:
    changed: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, child in value.items():
        if name in declared:
            other, found = without_units(declared[name], f"{key}.{name}", child)
            problems += found
            if other is not child:
                changed[name] = other
    return ({**value, **changed} if changed else value), problems


def number_of(info: FieldInfo, key: str, text: str) -> tuple[float, Problem | None]:
    """Return the number that *text* means in the unit of *info*, and its problem, or None if there is none."""
    number = duration(text) if info.unit == "seconds" else size(text)
    if number is None:
        kinds = ["an integer" if info.kind == "integer" else "a number", _WORDS[info.unit]]
        words = f"{', '.join(kinds)} or null" if info.optional else " or ".join(kinds)
        return 0, Wrong(words, _fix(info, text)).problem(key, text)
    if info.kind == "integer":
        if number != int(number):
            message = f"must be a whole number of {info.unit}, got {shown(text)}, which is {number:g}"
            return 0, Problem("E103", key, message, "round it")
        return int(number), None
    return number, None


def _fix(info: FieldInfo, text: str) -> str:
    if info.optional and text.lower() in {"none", "never", "unlimited", "infinite", "inf", "off"}:
        return "null means no limit" if info.unit == "seconds" else "null means that nothing is reserved"
    if info.unit == "MiB" and re.fullmatch(r"[0-9.]+ ?[KMGT]B?", text):
        return f"{text[-1:] if text[-1] != 'B' else text[-2:]} means powers of 1000: write Ki, Mi, Gi or Ti"
    return _HINTS[info.unit]
