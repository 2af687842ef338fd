"""Replicas on Ray and the processes in which they run, for tests that end these."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any


def pid_of(status: dict[str, Any], replica_id: str) -> int:
    """The process of a replica, as the status of its service has it."""
    (pid,) = (replica["pid"] for replica in status["replicas"] if replica["id"] == replica_id)
    assert pid is not None, f"{replica_id} has not said yet in which process it runs"
    return pid


def kill_replica(status: dict[str, Any], replica_id: str) -> int:
    """End the process of a replica at once; gives its number."""
    pid = pid_of(status, replica_id)
    os.kill(pid, signal.SIGKILL)
    return pid


def kill_child(pid: int) -> None:
    """End a child of this process, and wait until it has ended."""
    os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):  # whoever started it has looked at it already
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def stop_child(pid: int) -> None:
    """Have a child of this process stand still, and wait until it does."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that its parent has not looked at yet counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
