"""Writing a file whole or not at all: nobody reads half of it, and a failure leaves what was there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, text: str, *, private: bool = False, follow_link: bool = True) -> None:
    """
    Write *text* to a file, in UTF-8; what was there is replaced in one step.

    Args:
        path: The file.
        text: Its contents.
        private: Whether only its owner may read it; else the process's umask decides.
        follow_link: Whether, if the file is a link, what it points to is replaced; else the link is.

    Raises:
        OSError: It cannot be written, or is no regular file.
    """
    if follow_link:
        path = Path(os.path.realpath(path))
    if path.exists() and not path.is_symlink() and not path.is_file():  # root could replace a device
        raise OSError(errno.EINVAL, "is not a regular file")
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)  # of a process that had this number and was killed
    # Neither a file that somebody put there nor a link is followed.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(new, flags, 0o600 if private else 0o666)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
