"""Where a value of the configuration comes from."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["ARGUMENT", "DEFAULT", "Origin"]


class Origin(NamedTuple):
    """
    Who set a value.

    Attributes:
        source: `"default"`: nobody, it is the default. `"argument"`: a configuration given in code. `"file"`: the
            service's own entry in a file. `"profile"` and `"defaults"`: these parts of the file.
        path: The file, as it was named.
        line: Line, from 1; 0 outside files.
        column: Column, from 1; 0 outside files.
        profile: Name of the profile whose entry or defaults it is, or "".
        variables: The variables of the environment that are part of the value.
    """

    source: Literal["default", "argument", "file", "profile", "defaults"]
    path: str = ""
    line: int = 0
    column: int = 0
    profile: str = ""
    variables: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Such as `default`, `argument`, `services.yaml:7`, `services.yaml:30, profile busy, from $PORT`."""
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
