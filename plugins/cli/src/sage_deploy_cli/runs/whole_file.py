"""Writes a file whole or not at all: readers never see half of it, and a failure keeps the old content."""

from __future__ import annotations

import errno
import os
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, text: str, *, private: bool = False, follow_link: bool = True) -> None:
    """
    Write *text* to a file in UTF-8. An existing file is replaced in one step.

    Args:
        path: The file.
        text: Its new content.
        private: True: only the owner may read it. False: the process's umask decides.
        follow_link: If the file is a link: True replaces its target, False the link itself.

    Raises:
        OSError: It cannot be written, or is no regular file.
    """
    if follow_link:
        path = Path(os.path.realpath(path))
    if path.exists() and not path.is_symlink() and not path.is_file():  # root could replace a device
        raise OSError(errno.EINVAL, "is not a regular file")
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)  # left by a killed process with the same PID
    # Somebody else's file or link in this place makes the open fail.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(new, flags, 0o600 if private else 0o666)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
