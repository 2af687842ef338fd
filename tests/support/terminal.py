"""Runs the command `sage-deploy` at a real pseudo-terminal, which controls the process as a person's terminal does."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING, Any, Self

from command_line import PATIENCE, SCRIPT, surroundings

if TYPE_CHECKING:
    from pathlib import Path

#: Makes the terminal on stdin the controlling one, so that keys such as Ctrl-C become signals.
_CONTROLLED = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """
    A terminal in which the command runs. Use it as a context manager.

    Attributes:
        text: The text read from it so far.
        process: The command.
    """

    def __init__(self, *arguments: Any, cwd: Path, columns: int = 80, piped: bool = False, **variables: Any) -> None:
        """
        Start the command.

        Args:
            arguments: Arguments of the command.
            cwd: Its working directory.
            columns: Width of the terminal.
            piped: Whether stdout is a pipe, so that only stderr and stdin use the terminal.
            variables: Environment variables.
        """
        self.text = ""
        self._ours, theirs = pty.openpty()
        try:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CONTROLLED, str(SCRIPT), *map(str, arguments)],
                cwd=cwd,
                env=surroundings(**variables),
                stdin=theirs,
                stdout=subprocess.PIPE if piped else theirs,
                stderr=theirs,
                start_new_session=True,
                text=True,
            )
        except BaseException:
            os.close(self._ours)
            raise
        finally:
            os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._ours)

    def type(self, keys: str) -> None:
        """Press keys. `"\\x03"` is Ctrl-C."""
        os.write(self._ours, keys.encode())

    def read_until(self, words: str) -> None:
        """Read until *words* appear."""
        while words not in self.text:
            assert self._read(), f"the terminal was closed before {words!r} appeared:\n{self.text}"

    def read_to_end(self) -> tuple[int, str]:
        """Read until the command ends. Return its exit code and the terminal's whole text, with plain line breaks."""
        while self._read():
            pass
        return self.process.wait(PATIENCE), self.text.replace("\r\n", "\n")

    def _read(self) -> bool:
        ready, _, _ = select.select([self._ours], [], [], PATIENCE)
        assert ready, f"nothing more appeared after:\n{self.text}"
        try:
            data = os.read(self._ours, 65_536)
        except OSError as error:
            if error.errno != errno.EIO:  # Linux reports this when the other side is closed
                raise
            return False
        self.text += data.decode("utf-8", "replace")
        return bool(data)
