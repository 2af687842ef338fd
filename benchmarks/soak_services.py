"""The services of `soak.py`, in their own module so that replicas in other processes can import it."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import itertools
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sage_plugins import batch_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = ["Coroutines", "Failed", "Plain", "Reading", "read"]


class _Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of glibc 2.33 and later."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


_LIBC = ctypes.CDLL(None)
_LIBC.mallinfo2.restype = _Mallinfo


class Reading(NamedTuple):
    """
    The memory of a process after a garbage collection.

    Attributes:
        pid: ID of the process.
        resident: Resident bytes.
        given_out: Bytes that the C library has allocated and not got back, including large objects. It keeps further
            memory for later.
        blocks: Small objects that Python has allocated. Their memory does not come from the C library.
        types: Number of objects known to the garbage collector, by type.
    """

    pid: int
    resident: int
    given_out: int
    blocks: int
    types: dict[str, int]


def read(*, types: bool, trim: bool) -> Reading:
    """Read this process. Count by type only if asked, because it is slow. *trim*: return unused memory first."""
    gc.collect()
    if trim:
        _LIBC.malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    found = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects()) if types else {}
    has = _LIBC.mallinfo2()
    given_out = has.uordblks + has.hblkhd
    return Reading(os.getpid(), pages * os.sysconf("SC_PAGESIZE"), given_out, sys.getallocatedblocks(), dict(found))


class Failed(Exception):  # noqa: N818 - `Failed` reads better where it is raised
    """Raised by a method that was asked to fail."""


class Plain:
    """Ordinary methods."""

    def size(self, data: bytes) -> int:
        """Return the length of *data*."""
        return len(data)

    def echo(self, data: bytes) -> bytes:
        """Return *data*."""
        return data

    @batch_of("echo")
    def echo_many(self, data: list[bytes]) -> list[bytes]:
        """Answer several calls of `echo`."""
        return data

    def fail(self, data: bytes) -> None:
        """Raise `Failed`."""
        raise Failed(len(data))

    def take(self, seconds: float) -> None:
        """Sleep for *seconds*."""
        time.sleep(seconds)

    def items(self, data: bytes, number: int) -> Iterator[bytes]:
        """Yield *data* *number* times."""
        yield from itertools.repeat(data, number)

    def read(self, *, types: bool, trim: bool) -> Reading:
        """Read this process."""
        return read(types=types, trim=trim)


class Coroutines:
    """The same methods as coroutines."""

    async def size(self, data: bytes) -> int:
        """As `Plain.size`."""
        return len(data)

    async def echo(self, data: bytes) -> bytes:
        """As `Plain.echo`."""
        return data

    async def fail(self, data: bytes) -> None:
        """As `Plain.fail`."""
        raise Failed(len(data))

    async def take(self, seconds: float) -> None:
        """As `Plain.take`."""
        await asyncio.sleep(seconds)

    async def items(self, data: bytes, number: int) -> AsyncIterator[bytes]:
        """As `Plain.items`."""
        for _ in range(number):
            yield data

    async def read(self, *, types: bool, trim: bool) -> Reading:
        """Read this process."""
        return read(types=types, trim=trim)
