"""Reads a small file that a user named. Any path is safe: reading never hangs, and stops after a limit."""

from __future__ import annotations

import os
import stat

__all__ = ["UnreadableError", "is_own", "read_bounded"]


class UnreadableError(Exception):
    """The path leads to no readable file. The text says why; it reads as a continuation of the path."""


def is_own(found: os.stat_result) -> bool:
    """Whether the file belongs to this user and nobody else can write it."""
    return not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o022)


def read_bounded(path: str | os.PathLike[str], limit: int, *, own: bool = False) -> bytes:
    """
    Return the bytes of a regular file. At most *limit* + 1 bytes are read, so that the caller can detect a larger file.

    Args:
        path: The file.
        limit: Expected maximum, in bytes.
        own: Whether the file must belong to this user, be writable by nobody else, and be no link.

    Raises:
        UnreadableError: There is no such file, it is a directory, a FIFO or a device, or it may not be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | (getattr(os, "O_NOFOLLOW", 0) if own else 0)
    try:
        # Opening a FIFO must not wait for a writer.
        descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
        try:
            found = os.fstat(descriptor)
            if stat.S_ISDIR(found.st_mode):
                raise UnreadableError("is a directory")
            if not stat.S_ISREG(found.st_mode):
                raise UnreadableError("is not a regular file")
            if own and not is_own(found):
                raise UnreadableError("is not the user's own file, or can be written by others")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(limit + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise UnreadableError("there is no such file") from None
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error
    except ValueError:
        # The name has a NUL character.
        raise UnreadableError("is not the name of a file") from None
