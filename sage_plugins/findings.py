"""`Finding`, the result of a check of the installation."""

from __future__ import annotations

from typing import Literal

import attrs

__all__ = ["Finding", "Status"]

#: A warning may cause trouble later; a failure causes trouble now.
Status = Literal["ok", "warning", "failure"]


@attrs.frozen
class Finding:
    """
    The result of one check.

    Attributes:
        name: What was checked.
        status: Whether it is ok, a warning or a failure.
        found: What the check found, with the value.
        fix: What to do about it; empty if all is well.
    """

    name: str
    status: Status
    found: str
    fix: str = ""
