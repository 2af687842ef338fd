"""Kills and stops the processes of replicas on Ray."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any


def pid_of(status: dict[str, Any], replica_id: str) -> int:
    """Return the process ID of a replica, from the status of its service."""
    (pid,) = (replica["pid"] for replica in status["replicas"] if replica["id"] == replica_id)
    assert pid is not None, f"{replica_id} has not said yet in which process it runs"
    return pid


def kill_replica(status: dict[str, Any], replica_id: str) -> int:
    """Kill the process of a replica. Return its process ID."""
    pid = pid_of(status, replica_id)
    os.kill(pid, signal.SIGKILL)
    return pid


def kill_child(pid: int) -> None:
    """Kill a child of this process, and wait until it has ended."""
    os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):  # its parent object has already reaped it
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def stop_child(pid: int) -> None:
    """Stop a child of this process with SIGSTOP, and wait until it has stopped."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)


def is_gone(pid: int) -> bool:
    """Whether a process has ended. A zombie counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
