"""What a check found: the common form of everything that looks at an installation and gives advice."""

from __future__ import annotations

from typing import Literal

import attrs

__all__ = ["Finding", "Status"]

#: A warning may do harm one day, a failure does now.
Status = Literal["ok", "warning", "failure"]


@attrs.frozen
class Finding:
    """
    What one check found.

    Attributes:
        name: What was looked at.
        status: How it is.
        found: What was found, with the value.
        fix: What a person can do about it; empty if all is well.
    """

    name: str
    status: Status
    found: str
    fix: str = ""
