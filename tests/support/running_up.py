"""Runs `sage-deploy up` in a process and reads its output."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

from command_line import SCRIPT, surroundings

if TYPE_CHECKING:
    from pathlib import Path


class RunningUp(subprocess.Popen[str]):
    """A running `sage-deploy up FILE`."""

    def __init__(self, file: Path, *options: str, **variables: Any) -> None:
        """Start the command and wait until its services run."""
        super().__init__(
            [SCRIPT, "up", file, *options],
            cwd=file.parent,
            env=surroundings(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = self.read_until("press Ctrl-C")

    def read_until(self, words: str) -> str:
        """Return its stderr up to a line with *words*."""
        assert self.stderr is not None
        said = ""
        for line in self.stderr:
            said += line
            if words in line:
                return said
        raise AssertionError(f"it ended before it said {words!r}:\n{said}")
