"""
The file in which replicas note the calls that they run. The death of a process removes no line.

Each line is one `write` to a file opened for appending, so the lines of several processes do not mix. A replica that
does not find the file is *blind*, for example on another machine. It notes nothing, and says so in its answers.
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
    A replica started to run a call.

    Attributes:
        call: Number of the call.
        pid: Process ID of the replica.
        time_s: Seconds since the epoch, by the clock of the replica's machine.
    """

    call: int
    pid: int
    time_s: float


class Up(NamedTuple):
    """
    A replica was built.

    Attributes:
        service: Its name.
        position: Position of the replica among those of its service.
        pid: Its process ID.
        started: When that process started, as `started_at` returns it.
        machine: Its machine, as `machine` returns it.
    """

    service: str
    position: int
    pid: int
    started: str
    machine: str


def machine() -> str:
    """Return an ID of this machine and its process IDs, or an empty string if the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def started_at(pid: int) -> str:
    """Return when a process started, in ticks since boot. Empty if there is no such process, or no `/proc`."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]  # a zombie has ended; the 22nd field of proc(5) is the time


def is_alive(up: Up) -> bool:
    """Return whether the replica's own process still lives, on this machine."""
    return up.machine != "" and up.machine == machine() and up.started != "" and started_at(up.pid) == up.started


def note(path: str, text: str) -> None:
    """Append a line to an existing file."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, f"{text}\n".encode())
    finally:
        os.close(file)


class RunLog:
    """
    The file, as the deploying process uses it.

    Attributes:
        path: Its path.
        token: Its first line. A file with another first line is not this one.
    """

    def __init__(self, path: Path) -> None:
        """Create the file. An existing file is overwritten."""
        self.path = str(path)
        self.token = f"{_FIRST} {uuid4().hex}"
        path.write_text(f"{self.token}\n", encoding="ascii")
        Path(up_path(self.path)).touch()

    def ran(self) -> list[Ran]:
        """Return every call that a replica has started to run so far."""
        return calls_in(Path(self.path))

    def replicas(self) -> list[Up]:
        """Return every replica that was built so far."""
        found = []
        for line in Path(up_path(self.path)).read_text(encoding="utf-8").splitlines():
            service, position, pid, *place = line.split()
            started, where = place if len(place) == 2 else ("", "")  # noqa: PLR2004 - both are known, or neither
            found.append(Up(service, int(position), int(pid), started, where))
        return found


def up_path(path: str) -> str:
    """Return the path of the file in which replicas note that they were built. It is short, and is read often."""
    return f"{path}.up"


def calls_in(path: Path) -> list[Ran]:
    """Return every call that was noted in a file."""
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return [Ran(int(words[1]), int(words[2]), float(words[3])) for words in lines if words[0] == _RAN]


def ran_line(call: int) -> str:
    """Return the line that a replica notes when it starts to run a call."""
    return f"{_RAN} {call} {os.getpid()} {time.time():.6f}"


def up_line(service: str, position: int) -> str:
    """Return the line that a replica notes when it is built."""
    return f"{service} {position} {os.getpid()} {started_at(os.getpid())} {machine()}"


def is_there(path: str, token: str) -> bool:
    """Return whether a file has that first line."""
    try:
        with Path(path).open(encoding="ascii") as file:
            return file.readline().rstrip("\n") == token
    except OSError:
        return False
