"""Where a value of the configuration comes from."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["ARGUMENT", "DEFAULT", "Origin"]


class Origin(NamedTuple):
    """
    Where the value of a field was set.

    Attributes:
        source: `"default"`: nowhere. `"argument"`: in code. `"file"`: in the service's own entry in a file. `"profile"`
            and `"defaults"`: in these parts of a file.
        path: The file, as the caller named it.
        line: Line, from 1; 0 outside files.
        column: Column, from 1; 0 outside files.
        profile: Name of the profile that set it, in an entry or in its defaults; or "".
        variables: Names of the environment variables that are part of the value.
    """

    source: Literal["default", "argument", "file", "profile", "defaults"]
    path: str = ""
    line: int = 0
    column: int = 0
    profile: str = ""
    variables: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the origin as the plan shows it: `default`, `services.yaml:30, profile busy, from $PORT`."""
        if not self.path:
            return self.source
        parts = [f"{self.path}:{self.line}"]
        if self.profile:
            parts.append(f"profile {self.profile}")
        if self.source == "defaults":
            parts.append("defaults")
        if self.variables:
            parts.append("from " + " ".join(f"${name}" for name in self.variables))
        return ", ".join(parts)


DEFAULT = Origin("default")
ARGUMENT = Origin("argument")
