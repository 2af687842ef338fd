"""Reading a small file that a user named, whatever stands at that path: nothing hangs, nothing is read without end."""

from __future__ import annotations

import os
import stat

__all__ = ["UnreadableError", "read_bounded"]


class UnreadableError(Exception):
    """The path does not lead to a file that can be read; the text says why and reads on from the path."""


def read_bounded(path: str | os.PathLike[str], limit: int) -> bytes:
    """
    The bytes of a regular file, at most *limit* + 1 of them, so that a larger one can be told.

    Raises:
        UnreadableError: There is no such file, it is a directory, a FIFO or a device, or it may not be read.
    """
    try:
        # Opening a FIFO must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise UnreadableError("is a directory")
            if not stat.S_ISREG(mode):
                raise UnreadableError("is not a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(limit + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise UnreadableError("there is no such file") from None
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error
    except ValueError:
        # A name with a NUL character.
        raise UnreadableError("is not the name of a file") from None
