"""
What the processes of one user run, from which file: so that a plan made beside them can say what is different.

Each process that runs a deployment file holds a lock on a file of the user's state directory for as long as it lives,
which the operating system lets go however the process ends. Who finds the lock taken reads what runs beside it.
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
except ImportError:  # Windows has no such locks: there, plans do not know of other processes
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

__all__ = ["Run", "RunRecord", "find_run"]

#: Version of what is noted; notes of other versions are not understood.
_VERSION: Final = 1
#: Larger notes are not read: a service takes a few KB.
_MAX_BYTES: Final = 64 * 1024 * 1024
#: Seconds between tries to take a lock: somebody who only looks whether it is taken holds it for a moment.
_PAUSES: Final = (0.01, 0.02, 0.05, 0.0)


@attrs.frozen
class Run:
    """
    What a process runs.

    Attributes:
        pid: The process.
        file: The deployment file, as an absolute path.
        profile: The profile that was chosen, or None.
        services: What runs, by service, as `Environment.running` gives it.
    """

    pid: int
    file: str
    profile: str | None
    services: Mapping[str, Mapping[str, Any]]


def _place(file: Path) -> Path:
    """Where a file's run is noted; the same for every way to name the file."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(file))).hexdigest()[:20]
    return state_folder() / "runs" / name


class RunRecord:
    """
    Notes what this process runs from a file, until it is closed or the process ends.

    Not safe to use from several threads at once.
    """

    def __init__(self, place: Path, descriptor: int, file: Path, profile: str | None) -> None:
        self._place = place
        self._descriptor = descriptor
        self._file = file
        self._profile = profile

    @classmethod
    def take(cls, file: Path, profile: str | None) -> Self | None:
        """
        The record for *file*, or None if another process has it, or if this system has no such locks.

        It says that nothing runs yet, in place of what a process that was killed has left there.

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
        Note what runs, instead of what was noted before.

        Raises:
            OSError: It cannot be written.
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
        """Note nothing any more. Idempotent."""
        if self._descriptor >= 0:
            self._place.with_suffix(".json").unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


def find_run(file: Path) -> Run | None:
    """What another process of this user runs from *file*, or None if none does, or none that can be understood."""
    if fcntl is None:
        return None
    try:
        place = _place(file)
        descriptor = _open_lock(place)
    except (OSError, ValueError):  # nobody can have noted anything, or the path is none: reading the file says why
        return None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        pass  # somebody holds it, so somebody runs
    else:
        return None
    finally:
        os.close(descriptor)
    try:
        return _run(json.loads(read_bounded(place.with_suffix(".json"), _MAX_BYTES, own=True)))
    except (UnreadableError, ValueError, RecursionError):  # cut off, if it is too long
        return None


def _open_lock(place: Path, more: int = 0) -> int:
    """
    Open the file whose lock is held while a file's services run.

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
    """What a process has noted, or None if that has another shape."""
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        return None
    pid, file, profile, services = (content.get(name) for name in ("pid", "file", "profile", "services"))
    if not (isinstance(pid, int) and isinstance(file, str) and isinstance(profile, (str, type(None)))):
        return None
    if not isinstance(services, dict) or not all(isinstance(each, dict) for each in services.values()):
        return None
    return Run(pid, file, profile, services)
