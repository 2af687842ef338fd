"""
Folders for sockets: each is held for as long as its process lives, and removed after a process that was killed.

A listener holds a lock on the folder itself, which the kernel gives back when the process ends, whatever ends it.
Process numbers would not do, for they are used again. `systemd-tmpfiles` leaves locked folders alone as well.
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

#: Bytes that the path of a socket may have: 103 on macOS, 107 on Linux.
_LONGEST: Final = 103

_held: Final[dict[Path, int]] = {}  # descriptors that have the locks; changed in single steps, which need no lock


def new_path() -> str:
    """A path for a socket, in a folder that nobody else has; creates nothing."""
    name = f"sage-deploy-link-{secrets.token_hex(16)}/{_SOCKET}"
    path = str(Path(gettempdir(), name))
    return path if len(os.fsencode(path)) <= _LONGEST else f"/tmp/{name}"  # noqa: S108 - only this user may enter it


def hold(folder: Path) -> None:
    """
    Make *folder*, which only this user may enter, and hold it until `drop` or the end of this process.

    The first one also removes the folders beside it whose processes have ended. Raises OSError if it cannot be made.
    """
    _held[folder] = _made(folder)
    _sweep(folder.parent)


def drop(folder: Path) -> None:
    """Remove *folder*, which this process holds, or one that has ended. Idempotent."""
    _remove(folder)
    descriptor = _held.pop(folder, None)
    if descriptor is not None:  # not before it is removed: then nobody else takes it for one to be swept
        os.close(descriptor)


def _made(folder: Path) -> int:
    """Make it; gives the descriptor that has its lock."""
    while True:
        folder.mkdir(mode=0o700)
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, _AS_FOLDER)
            with suppress(OSError):  # there are no locks in this file system, so nobody sweeps
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(folder, descriptor):
                return descriptor
            os.close(descriptor)
        # Another process swept it between two of these steps.


@cache
def _sweep(parent: Path) -> None:
    """Remove the folders in *parent* of this user whose processes have ended."""
    with suppress(OSError), os.scandir(parent) as found:
        for each in found:
            if _NAME.fullmatch(each.name):
                with suppress(OSError):  # another user's, or one that another process has just removed
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
    """Whether the folder that is open is the one that is there now."""
    with suppress(FileNotFoundError):
        return os.path.samestat(folder.lstat(), os.fstat(descriptor))
    return False


def _remove(folder: Path) -> None:
    with suppress(OSError):
        (folder / _SOCKET).unlink(missing_ok=True)
        folder.rmdir()  # fails if there is anything else in it


def _after_fork() -> None:
    """A forked copy does not listen, so it must not go on holding when this process has ended."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_after_fork)
