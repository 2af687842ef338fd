"""
Records what each process of a user runs and from which file, so that plans in other processes can compare.

A process that runs a deployment file holds a lock on a file in the user's state directory. The operating system
releases the lock however the process ends. A process that finds the lock taken reads the record next to it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_deploy_cli.runs.whole_file import write_whole
from sage_deploy_files.bounded_file import UnreadableError, is_own, read_bounded
from sage_deploy_files.state_folder import make_private, state_folder

try:
    import fcntl
except ImportError:  # Windows has no such locks, so plans there do not see other processes
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

__all__ = ["Run", "RunRecord", "find_run"]

#: Version of the format. Records of other versions are ignored.
_VERSION: Final = 1
#: Larger records are not read. A service takes a few KB.
_MAX_BYTES: Final = 64 * 1024 * 1024
#: Seconds between tries to take a lock: `find_run` in another process holds it for a moment.
_PAUSES: Final = (0.01, 0.02, 0.05, 0.0)


@attrs.frozen
class Run:
    """
    What a process runs.

    Attributes:
        pid: The process.
        file: Absolute path of the deployment file.
        profile: The chosen profile, or None.
        services: Settings of the running services by name, as `Environment.running` returns them.
    """

    pid: int
    file: str
    profile: str | None
    services: Mapping[str, Mapping[str, Any]]


def _place(file: Path) -> Path:
    """Return the path of a file's record, without suffix. All names of one file give the same path."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(file))).hexdigest()[:20]
    return state_folder() / "runs" / name


class RunRecord:
    """
    Records what this process runs from a file, until it is closed or the process ends.

    Not thread-safe.
    """

    def __init__(self, place: Path, descriptor: int, file: Path, profile: str | None) -> None:
        self._place = place
        self._descriptor = descriptor
        self._file = file
        self._profile = profile

    @classmethod
    def take(cls, file: Path, profile: str | None) -> Self | None:
        """
        Take the record for *file*. Return None if another process has it, or if this system has no such locks.

        The new record says that nothing runs. It replaces a record that a killed process has left.

        Raises:
            OSError: The user's state directory cannot be used.
        """
        if fcntl is None:
            return None
        place = _place(file)
        make_private(place.parent)
        descriptor = _open_lock(place, os.O_CREAT)
        for pause in _PAUSES:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(pause)
            else:
                record = cls(place, descriptor, file, profile)
                try:
                    record.note({})
                except OSError:
                    os.close(descriptor)
                    raise
                return record
        os.close(descriptor)
        return None

    def note(self, services: Mapping[str, Mapping[str, Any]]) -> None:
        """
        Replace the recorded services.

        Raises:
            OSError: The record cannot be written.
        """
        content = {
            "version": _VERSION,
            "pid": os.getpid(),
            "file": os.path.realpath(self._file),
            "profile": self._profile,
            "services": services,
        }
        write_whole(self._place.with_suffix(".json"), json.dumps(content), private=True, follow_link=False)

    def close(self) -> None:
        """Remove the record and release the lock. Idempotent."""
        if self._descriptor >= 0:
            self._place.with_suffix(".json").unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


def find_run(file: Path) -> Run | None:
    """Return what another process of this user runs from *file*, or None if there is no readable record."""
    if fcntl is None:
        return None
    try:
        place = _place(file)
        descriptor = _open_lock(place)
    except (OSError, ValueError):  # no record can exist, or the path is invalid, which reading the file reports
        return None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        pass  # a running process holds the lock
    else:
        return None
    finally:
        os.close(descriptor)
    try:
        return _run(json.loads(read_bounded(place.with_suffix(".json"), _MAX_BYTES, own=True)))
    except (UnreadableError, ValueError, RecursionError):  # a record that is too long is cut off, and invalid
        return None


def _open_lock(place: Path, more: int = 0) -> int:
    """
    Open the lock file that a process holds while it runs a file's services.

    Raises:
        OSError: It cannot be opened, or is not this user's regular file.
    """
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC | more
    descriptor = os.open(place.with_suffix(".lock"), flags, 0o600)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or not is_own(found):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "the lock is not a regular file of the user's own")
    return descriptor


def _run(content: object) -> Run | None:
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        return None
    pid, file, profile, services = (content.get(name) for name in ("pid", "file", "profile", "services"))
    if not (isinstance(pid, int) and isinstance(file, str) and isinstance(profile, (str, type(None)))):
        return None
    if not isinstance(services, dict) or not all(isinstance(each, dict) for each in services.values()):
        return None
    return Run(pid, file, profile, services)
