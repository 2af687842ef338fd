"""
Messages in a stream of bytes.

A message is a pickle and its out-of-band buffers. On the wire, all numbers are little-endian: the size of the pickle
(8 bytes), the number of buffers (4 bytes), the size of each buffer (8 bytes), the pickle, the buffers.
"""

from __future__ import annotations

import mmap
import pickle
import struct
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sage_deploy_remote.payloads.payload import Payload

__all__ = ["Message", "MessageAssembler", "MessageError", "allocate", "join", "pickled", "with_separate_pickle"]

#: A pickle and its out-of-band buffers.
Message: TypeAlias = "tuple[bytes | bytearray | mmap.mmap, Sequence[Any]]"

_HEAD: Final = struct.Struct("<QI")
_SIZE: Final = 8

#: Limits of a message: its bytes (64 GiB) and its buffers. A larger number means that the other end is something else.
_MOST_BYTES: Final = 2**36
_MOST_BUFFERS: Final = 2**20

#: Parts of at least this many bytes are sent and read without a copy.
_UNCOPIED: Final = 2**16
#: Parts of at least this many bytes are mapped from the system, which provides pages as they are filled. So they need
#: no zeroing, and a false size takes no memory.
_HUGE: Final = 2**23
#: Buffers of fewer bytes are copied into the pickle, because two more parts would cost more than the copy.
_SMALL: Final = 2**14


class MessageError(Exception):
    """The bytes that came are no message, so the other end is something else."""


def pickled(value: Any) -> tuple[bytes, Sequence[PickleBuffer]]:
    """Return plain data as the two parts of a message, without copying large buffers in it."""
    large: list[PickleBuffer] = []

    def keep(buffer: PickleBuffer) -> bool:
        if buffer.raw().nbytes < _SMALL:
            return True
        large.append(buffer)
        return False

    return pickle.dumps(value, 5, buffer_callback=keep), large


def with_separate_pickle(payload: Payload) -> Payload | tuple[PickleBuffer, Sequence[Any], Sequence[Any]]:
    """Prepare *payload* for `pickled`, so that its own pickle is not copied if it is large."""
    data = payload[0]
    return payload if len(data) < _UNCOPIED else (PickleBuffer(data), *payload[1:])


def join(body: bytes, buffers: Sequence[Any] = ()) -> list[Any]:
    """
    Return a message as the parts to send in turn.

    Args:
        body: The pickle.
        buffers: `pickle.PickleBuffer` objects, or other objects with contiguous bytes.
    """
    if not buffers:
        head = _HEAD.pack(len(body), 0)
        return [head + body] if len(body) < _UNCOPIED else [head, body]
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    sizes = b"".join(view.nbytes.to_bytes(_SIZE, "little") for view in views)
    return [_HEAD.pack(len(body), len(views)) + sizes, body, *views]


class MessageAssembler:
    """
    Assembles messages from a stream. For one thread at a time.

    Pass small messages to `take`. For a large one, write the next bytes into `room`, so that they are not copied.
    """

    def __init__(self) -> None:
        self._rest = b""  # incomplete beginning of a message
        self._parts: list[Any] = []  # of a large message: the pickle and its buffers
        self._empty: list[memoryview] = []  # unfilled parts of the large message, in reverse order

    @property
    def room(self) -> memoryview | None:
        """Memory for the next bytes; None while no large message is being received."""
        return self._empty[-1] if self._empty else None

    def filled(self, number: int) -> list[Message]:
        """Note that *number* bytes were written to `room`; return the message if it is complete."""
        room = self._empty.pop()
        if number < room.nbytes:
            self._empty.append(room[number:])
        return self._complete()

    def take(self, data: bytes) -> Iterator[Message]:
        """
        Yield the messages that are complete with *data*. Take all of them before you pass more data.

        Raises:
            MessageError: The bytes after the yielded messages are no message.
        """
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= _HEAD.size:
            size, number = _HEAD.unpack_from(data, at)
            if size > _MOST_BYTES or number > _MOST_BUFFERS:
                msg = f"{size} bytes and {number} buffers are more than any message has"
                raise MessageError(msg)
            begin = at + _HEAD.size + _SIZE * number
            if end < begin:
                break
            if number:
                sizes = [size, *_sizes(data, at + _HEAD.size, number)]
            elif begin + size <= end:
                at = begin + size
                yield data[begin:at], ()
                continue
            else:
                sizes = [size]
            if number or begin + size - end > _UNCOPIED:
                at = self._begin(sizes, memoryview(data)[begin:]) + begin
                yield from self._complete()
                continue
            break
        self._rest = data[at:]

    def _begin(self, sizes: Sequence[int], data: memoryview) -> int:
        """
        Allocate a message with parts of these sizes, copy its first bytes from *data*, and return how many they were.
        """
        try:
            self._parts = [allocate(size) for size in sizes]
        except (MemoryError, OSError) as error:
            msg = f"there is no memory for a message of {sum(sizes)} bytes"
            raise MessageError(msg) from error
        self._empty = [memoryview(part) for part in reversed(self._parts) if part]
        at = 0
        while self._empty and at < data.nbytes:
            room = self._empty.pop()
            fits = min(room.nbytes, data.nbytes - at)
            room[:fits] = data[at : at + fits]
            at += fits
            if fits < room.nbytes:
                self._empty.append(room[fits:])
        return at

    def _complete(self) -> list[Message]:
        if self._empty:
            return []
        body, *buffers = self._parts
        self._parts = []
        return [(body, buffers)]


def allocate(size: int) -> Any:
    """Return writable memory of *size* bytes."""
    if size < _HUGE:
        return bytearray(size)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):  # takes a tenth of the time, most of which goes into pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return pages


def _sizes(data: bytes, at: int, number: int) -> list[int]:
    """Return the sizes of *number* buffers, which begin at *at*."""
    sizes = [int.from_bytes(data[place : place + _SIZE], "little") for place in range(at, at + _SIZE * number, _SIZE)]
    if sum(sizes) > _MOST_BYTES:
        msg = f"buffers of {sum(sizes)} bytes are more than any message has"
        raise MessageError(msg)
    return sizes
