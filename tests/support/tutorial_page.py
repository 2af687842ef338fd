"""
A runner for the tutorial. It works like a reader with two terminals, one of which runs `sage-deploy up`.

It takes blocks as `documentation_pages` does, except these:

- `python` is only written to its file. Commands execute it.
- `console`: the second terminal executes every command and compares the output. A command must fail exactly if its
  output starts with `Error: `. `sage-deploy up` runs in the first terminal, after Ctrl-C for the previous one; its
  output is compared up to the line that says that it runs.
- `text`: lines that the first terminal prints later, in this order. The runner waits for them.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import signal
import socket
import subprocess
import sysconfig
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from documentation_pages import FLAGS, PATIENCE, TUTORIAL, Block, Page

if TYPE_CHECKING:
    import pytest

#: The port on the page. The runner replaces it with a free one.
PORT = "8400"
_RUNS = "running; press Ctrl-C"


class FirstTerminal(subprocess.Popen[str]):
    """A running `sage-deploy up` and its output."""

    def __init__(self, arguments: list[str], variables: dict[str, str]) -> None:
        super().__init__(
            ["sage-deploy", *arguments],
            env=variables | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[str] = []
        self._said = threading.Condition()
        self._read = 0
        self._reader = threading.Thread(target=self._listen)
        self._reader.start()

    def _listen(self) -> None:
        assert self.stdout is not None
        for line in self.stdout:
            with self._said:
                self._lines.append(line)
                self._said.notify_all()

    def wait_for(self, line: str) -> str:
        """Wait for *line*, in which `...` is anything. Return the output since the previous wait."""
        pattern = re.compile(".*".join(map(re.escape, line.split("..."))))
        start = self._read

        def found() -> bool:
            while self._read < len(self._lines):
                self._read += 1
                if pattern.search(self._lines[self._read - 1]):  # Ray may print a message at the start of our line
                    return True
            return False

        with self._said:
            printed = self._said.wait_for(found, PATIENCE)
            assert printed, f"not printed: {line}\n{''.join(self._lines[start:])}"
            return "".join(self._lines[start : self._read])

    def interrupt(self) -> None:
        """Press Ctrl-C and wait for the end."""
        self.send_signal(signal.SIGINT)
        try:
            code = self.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            self._reader.join(PATIENCE)
            assert self.stdout is not None
            self.stdout.close()
        assert code == 0, "".join(self._lines)


class Tutorial(Page):
    """Takes the blocks of the tutorial. The current folder is also the reader's home."""

    def __init__(self, patch: pytest.MonkeyPatch, path: Path = TUTORIAL) -> None:
        super().__init__(path, patch)
        self._first: FirstTerminal | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = str(free.getsockname()[1])
        self._shell = {**os.environ, "HOME": str(Path.cwd()), "PYTHONPATH": ""}
        self._shell["PATH"] = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
        del self._shell["XDG_STATE_HOME"]

    def take_all(self) -> None:
        try:
            super().take_all()
        finally:
            self._interrupt()

    def _take(self, block: Block) -> None:
        text = block.text.replace(PORT, self._port)
        if block.kind == "text":
            assert self._first is not None, f"{self._at(block)}: nothing runs in the first terminal"
            for line in text.splitlines():
                self._first.wait_for(line)
        else:
            super()._take(block._replace(text=text))

    def _take_python(self, block: Block) -> None:
        assert block.name, f"{self._at(block)}: no file"

    def _check_command(self, words: list[str], output: str, where: str) -> None:
        raise NotImplementedError  # a shell executes the commands

    def _take_console(self, block: Block) -> None:
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            printed = (
                self._run_up(command) if command.startswith("sage-deploy up ") else self._run_shell(command, output)
            )
            same = doctest.OutputChecker().check_output(output, printed, FLAGS)
            assert same, f"{self._at(block)}: {command}\n{printed}"

    def _interrupt(self) -> None:
        running, self._first = self._first, None
        if running is not None:
            running.interrupt()

    def _run_up(self, command: str) -> str:
        self._interrupt()
        self._first = FirstTerminal(shlex.split(command, comments=True)[1:], self._shell)
        return self._first.wait_for(f"{_RUNS}...")

    def _run_shell(self, command: str, output: str) -> str:
        exported = re.match(r"export (\w+)=", command)
        if exported is not None:
            command += f' && printf %s "${exported[1]}"'
        done = subprocess.run(
            ["/bin/bash", "-c", command],
            env=self._shell,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert (done.returncode != 0) == output.startswith("Error: "), f"{command}: {done.returncode}\n{done.stdout}"
        if exported is None:
            return done.stdout
        self._shell[exported[1]] = done.stdout
        return ""
