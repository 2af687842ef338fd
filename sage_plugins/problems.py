"""`Problem`, an error or warning about a configuration."""

from __future__ import annotations

from typing import Literal

import attrs

__all__ = ["Problem"]


@attrs.frozen
class Problem:
    """
    One problem of a configuration. Problems are reported together, never raised one by one.

    Attributes:
        id: Stable ID of the rule, such as `"E301"` or `"W05"`; docs/errors.md explains each.
        key: Path of the wrong value in the service's configuration, such as `"options.round_robin.weight"`.
        message: What is wrong, with the wrong value; continues the key: `"must be 1 or more, got 0"`.
        fix: What to do, as an imperative; may be empty.
        other: Path of a conflicting value; may be empty. A message about a file has both places.
    """

    id: str
    key: str
    message: str
    fix: str = ""
    other: str = ""

    @property
    def severity(self) -> Literal["error", "warning"]:
        """`"error"` for an ID with E, `"warning"` for W."""
        return "warning" if self.id.startswith("W") else "error"

    def __str__(self) -> str:
        """Return the problem as one line, without a place: `error E103: replicas: must be 1 or more, got 0 (fix)`."""
        return f"{self.severity} {self.id}: {self.key}: {self.message}" + (f" ({self.fix})" if self.fix else "")
