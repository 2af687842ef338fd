"""
The file in which replicas note what they run: no death of a process takes back a line that is in it.

A line is written by one `write` to a file that was opened for appending, so the lines of several processes do not mix.
A replica that does not find the file, such as one on another machine, is *blind*: it notes nothing, and says so in its
answers.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final, NamedTuple
from uuid import uuid4

__all__ = [
    "Ran",
    "RunLog",
    "Up",
    "calls_in",
    "is_alive",
    "machine",
    "note",
    "ran_line",
    "started_at",
    "up_line",
    "up_path",
]

_RAN: Final = "ran"
_FIRST: Final = "run_log"


class Ran(NamedTuple):
    """
    A replica began to run a call.

    Attributes:
        call: Number of the call.
        pid: Process of the replica.
        time_s: Seconds since the epoch, by the clock of the replica's machine.
    """

    call: int
    pid: int
    time_s: float


class Up(NamedTuple):
    """
    A replica was built.

    Attributes:
        service: Name of the service.
        position: Position of the replica among those of its service.
        pid: Its process.
        started: When that process was started, as `started_at` has it.
        machine: Where, as `machine` has it.
    """

    service: str
    position: int
    pid: int
    started: str
    machine: str


def machine() -> str:
    """What tells this machine and its process ids from all others; empty if the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def started_at(pid: int) -> str:
    """When a process was started, in ticks since the machine was; empty if there is no such process, or no `/proc`."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]  # a zombie has ended; the 22nd field of proc(5) is the time


def is_alive(up: Up) -> bool:
    """Whether the very process lives in which the replica was built, on this machine."""
    return up.machine != "" and up.machine == machine() and up.started != "" and started_at(up.pid) == up.started


def note(path: str, text: str) -> None:
    """Append a line to a file that is there."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, f"{text}\n".encode())
    finally:
        os.close(file)


class RunLog:
    """
    The file, on the side of who deploys.

    Attributes:
        path: Where it is.
        token: Its first line; a file of another content is not this one.
    """

    def __init__(self, path: Path) -> None:
        """Begin the file; one that is there is overwritten."""
        self.path = str(path)
        self.token = f"{_FIRST} {uuid4().hex}"
        path.write_text(f"{self.token}\n", encoding="ascii")
        Path(up_path(self.path)).touch()

    def ran(self) -> list[Ran]:
        """Every call that a replica has begun to run so far."""
        return calls_in(Path(self.path))

    def replicas(self) -> list[Up]:
        """Every replica that was built so far."""
        found = []
        for line in Path(up_path(self.path)).read_text(encoding="utf-8").splitlines():
            service, position, pid, *place = line.split()
            started, where = place if len(place) == 2 else ("", "")  # noqa: PLR2004 - both are known, or neither
            found.append(Up(service, int(position), int(pid), started, where))
        return found


def up_path(path: str) -> str:
    """The file beside *path* in which replicas note that they were built: it is short, and looked at often."""
    return f"{path}.up"


def calls_in(path: Path) -> list[Ran]:
    """Every call that was noted in a file."""
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return [Ran(int(words[1]), int(words[2]), float(words[3])) for words in lines if words[0] == _RAN]


def ran_line(call: int) -> str:
    """What a replica notes when it begins to run a call."""
    return f"{_RAN} {call} {os.getpid()} {time.time():.6f}"


def up_line(service: str, position: int) -> str:
    """What a replica notes when it is built."""
    return f"{service} {position} {os.getpid()} {started_at(os.getpid())} {machine()}"


def is_there(path: str, token: str) -> bool:
    """Whether a file is the one with that first line."""
    try:
        with Path(path).open(encoding="ascii") as file:
            return file.readline().rstrip("\n") == token
    except OSError:
        return False
