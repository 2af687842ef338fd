"""
Folders for sockets. A process holds its folders while it lives; others remove the folders of killed processes.

A listener holds a lock on its folder, which the kernel releases when the process ends for any reason. Process IDs would
not do, because they are reused. `systemd-tmpfiles` also leaves locked folders alone.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Final

__all__ = ["drop", "hold", "new_path"]

_NAME: Final = re.compile(r"sage-deploy-link-[0-9a-f]{32}")
_SOCKET: Final = "socket"
_AS_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

#: Limit for the path of a socket, in bytes: 103 on macOS, 107 on Linux.
_LONGEST: Final = 103

_held: Final[dict[Path, int]] = {}  # descriptors that hold the locks; changed by single operations, which need no lock


def new_path() -> str:
    """Return a path for a socket, in a unique folder; creates nothing."""
    name = f"sage-deploy-link-{secrets.token_hex(16)}/{_SOCKET}"
    path = str(Path(gettempdir(), name))
    return path if len(os.fsencode(path)) <= _LONGEST else f"/tmp/{name}"  # noqa: S108 - only this user may enter it


def hold(folder: Path) -> None:
    """
    Make *folder*, which only this user may enter, and hold it until `drop` or the end of this process.

    The first call also removes folders in the same place whose processes have ended. Raises OSError if the folder
    cannot be made.
    """
    _held[folder] = _made(folder)
    _sweep(folder.parent)


def drop(folder: Path) -> None:
    """Remove *folder*, which this process or an ended one held. Idempotent."""
    _remove(folder)
    descriptor = _held.pop(folder, None)
    if descriptor is not None:  # only after the removal: until then, no other process may sweep the folder
        os.close(descriptor)


def _made(folder: Path) -> int:
    """Make the folder, and return the descriptor that holds its lock."""
    while True:
        folder.mkdir(mode=0o700)
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, _AS_FOLDER)
            with suppress(OSError):  # this file system has no locks, so nobody sweeps
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(folder, descriptor):
                return descriptor
            os.close(descriptor)
        # Another process removed the folder between two of these steps.


@cache
def _sweep(parent: Path) -> None:
    """Remove this user's folders in *parent* whose processes have ended."""
    with suppress(OSError), os.scandir(parent) as found:
        for each in found:
            if _NAME.fullmatch(each.name):
                with suppress(OSError):  # belongs to another user, or another process has just removed it
                    _remove_if_left(Path(each.path))


def _remove_if_left(folder: Path) -> None:
    descriptor = os.open(folder, _AS_FOLDER)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(folder, descriptor):
                _remove(folder)
    finally:
        os.close(descriptor)


def _is_at(folder: Path, descriptor: int) -> bool:
    """Whether the open folder is still the one at that path."""
    with suppress(FileNotFoundError):
        return os.path.samestat(folder.lstat(), os.fstat(descriptor))
    return False


def _remove(folder: Path) -> None:
    with suppress(OSError):
        (folder / _SOCKET).unlink(missing_ok=True)
        folder.rmdir()  # fails if it has other content


def _after_fork() -> None:
    """Release the locks in a forked child: it does not listen, and must not hold the folders after its parent's end."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_after_fork)
