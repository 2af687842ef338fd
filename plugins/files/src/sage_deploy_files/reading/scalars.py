"""Converts YAML scalars without quotes by the core schema of YAML 1.2, and limits their length."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["MAX_SCALAR", "digits_out_of_range", "resolved"]

#: Maximum number of characters of one scalar.
MAX_SCALAR: Final = 64 * 1024
#: Python refuses to read integers of more than a few thousand digits, and no field needs more than ten.
_MAX_DIGITS: Final = 300

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE: Final = frozenset({"true", "True", "TRUE"})
_FALSE: Final = frozenset({"false", "False", "FALSE"})
_INTEGER: Final = re.compile(r"[-+]?[0-9]+")
_OCTAL: Final = re.compile(r"0o[0-7]+")
_HEXADECIMAL: Final = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITY: Final = re.compile(r"[-+]?\.(?:inf|Inf|INF)")
_NAN: Final = frozenset({".nan", ".NaN", ".NAN"})


def digits_out_of_range(text: str) -> bool:
    """Whether a scalar without quotes is an integer that is too long to read as a number or to show."""
    return len(text) > _MAX_DIGITS and any(each.fullmatch(text) for each in (_INTEGER, _OCTAL, _HEXADECIMAL))


def resolved(text: str) -> str | float | bool | None:
    """
    Convert a scalar without quotes to None, bool, int or float, or return the text.

    Args:
        text: The scalar. `digits_out_of_range` must be false for it.
    """
    value: str | float | bool | None = text
    if text in _NULL:
        value = None
    elif text in _TRUE or text in _FALSE:
        value = text in _TRUE
    elif _INTEGER.fullmatch(text):
        value = int(text)
    elif _FLOAT.fullmatch(text) or _INFINITY.fullmatch(text):
        value = float(text.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf"))
    elif text in _NAN:
        value = float("nan")
    elif _OCTAL.fullmatch(text):
        value = int(text, 8)
    elif _HEXADECIMAL.fullmatch(text):
        value = int(text, 16)
    return value
